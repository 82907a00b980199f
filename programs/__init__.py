"""The library of programs: functions that return a `Program`, each beside a plain reference.

`catalogue()` lists them all with sample parameters and inputs.
"""

from lsrl.programs.arithmetic import binary_adder, cycle_navigation, gradient_step, modular_sum
from lsrl.programs.catalogue import catalogue
from lsrl.programs.counting import counter_mod, histogram, majority, parity, running_max
from lsrl.programs.entry import Entry
from lsrl.programs.formal_languages import (
    a_n_b_n,
    a_n_b_n_c_n,
    dfa,
    dyck,
    dyck1,
    even_pairs,
    ngram,
    permutations,
    shuffle_dyck,
)
from lsrl.programs.in_context import (
    CAPITALS,
    WORD_LENGTH,
    country_capital,
    country_capital_prompt,
    decode_word,
    encode_word,
    random_dictionary,
    tok2tok,
    tok2tok_prompt,
    vec2vec,
    vec2vec_prompt,
)
from lsrl.programs.lookup import associative_recall, induction_head, recall_overwriting
from lsrl.programs.memory import (
    copy_delay,
    counting_sort,
    first_token,
    flip_flop,
    reverse,
    selective_copy,
    undo_flip_flop,
)

__all__ = [
    "CAPITALS",
    "WORD_LENGTH",
    "Entry",
    "a_n_b_n",
    "a_n_b_n_c_n",
    "associative_recall",
    "binary_adder",
    "catalogue",
    "copy_delay",
    "counter_mod",
    "counting_sort",
    "country_capital",
    "country_capital_prompt",
    "cycle_navigation",
    "decode_word",
    "dfa",
    "dyck",
    "dyck1",
    "encode_word",
    "even_pairs",
    "first_token",
    "flip_flop",
    "gradient_step",
    "histogram",
    "induction_head",
    "majority",
    "modular_sum",
    "ngram",
    "parity",
    "permutations",
    "random_dictionary",
    "recall_overwriting",
    "reverse",
    "running_max",
    "selective_copy",
    "shuffle_dyck",
    "tok2tok",
    "tok2tok_prompt",
    "undo_flip_flop",
    "vec2vec",
    "vec2vec_prompt",
]
