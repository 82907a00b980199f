/* tok2tok as one loop over time that keeps all states at hand: the same states and ReLUs as
   lsrl.programs.tok2tok, 8 bytes of memory a token. Sequences side by side are for the compiler to
   vectorise over; tokens are turned around in blocks, so that the memory is read in order. */

#include <stdint.h>
#include <string.h>

#define LANES 32
#define BLOCK 16
#define LONGEST 64

static inline float relu(float x) { return x > 0 ? x : 0; }

typedef struct {
    float query[LONGEST][LANES], value[LONGEST][LANES], past[LONGEST][LANES];
    float mismatches[LANES], found[LANES], since[LANES];
} States;

/* One token of all lanes, whose outputs take the place of the symbols. */
static inline void token(States *s, float *symbols, int place, float shut, float key, int length,
                         float greatest) {
    float *query = s->query[place], *value = s->value[place], *past = s->past[place];
    for (int i = 0; i < LANES; i++) {
        float symbol = symbols[i];
        float asked = query[i] + relu(symbol - shut);
        float difference = relu(symbol - asked) + relu(asked - symbol);
        float mismatches = s->mismatches[i] + difference - past[i];
        float found = s->found[i] + relu(key - mismatches);
        float since = s->since[i] + 1 - relu(1 - found);
        float outside = relu(2 - since) + relu(since - (length + 1));
        float said = value[i] + relu(symbol - greatest * outside);
        query[i] = asked, past[i] = difference, value[i] = said;
        s->mismatches[i] = mismatches, s->found[i] = found, s->since[i] = since;
        symbols[i] = said;
    }
}

/* symbols and outputs: (batch, time). Returns 0, or 1 if words are longer than LONGEST. */
int tok2tok(const int32_t *symbols, float *outputs, long batch, long time, int length,
            float greatest) {
    if (length > LONGEST) return 1;
    for (long first = 0; first < batch; first += LANES) {
        int lanes = batch - first < LANES ? (int)(batch - first) : LANES;
        int place = 0, turn = 0;
        static _Thread_local States states;
        float turned[BLOCK][LANES];
        memset(&states, 0, sizeof states);
        memset(turned, 0, sizeof turned);
        for (long start = 0; start < time; start += BLOCK) {
            int count = time - start < BLOCK ? (int)(time - start) : BLOCK;
            for (int i = 0; i < lanes; i++)
                for (int k = 0; k < count; k++)
                    turned[k][i] = symbols[(first + i) * time + start + k];
            for (int k = 0; k < count; k++) {
                float shut = start + k >= length ? greatest : 0, key = turn == 2 * length - 1;
                token(&states, turned[k], place, shut, key, length, greatest);
                place = place + 1 == length ? 0 : place + 1;
                turn = turn + 1 == 2 * length ? 0 : turn + 1;
            }
            for (int i = 0; i < lanes; i++)
                for (int k = 0; k < count; k++)
                    outputs[(first + i) * time + start + k] = turned[k][i];
        }
    }
    return 0;
}
