"""The library of programs: functions that return a `Program`, each beside a plain reference.

`catalogue()` lists them all with sample parameters and inputs.
"""

from lsrl.programs.approximation import linear_interpolation, threshold_learner
from lsrl.programs.arithmetic import (
    binary_adder,
    cycle_navigation,
    gradient_step,
    modular_sum,
    reset_sum,
)
from lsrl.programs.capitals import (
    CAPITALS,
    WORD_LENGTH,
    country_capital,
    country_capital_prompt,
    decode_word,
    encode_word,
)
from lsrl.programs.catalogue import catalogue
from lsrl.programs.composition import (
    echo_sum,
    induction_hits,
    longest_run,
    majority_parity,
    pattern_count,
)
from lsrl.programs.computer import fleq, fleq_functions, in_order, subleq
from lsrl.programs.computer_lm import subleq_lm, subleq_lm_text
from lsrl.programs.counting import (
    counter_mod,
    histogram,
    leader,
    majority,
    parity,
    run_length,
    running_max,
    since_last,
    window_majority,
)
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
from lsrl.programs.in_context import random_dictionary, tok2tok, tok2tok_prompt
from lsrl.programs.lookup import (
    associative_recall,
    function_table,
    induction_head,
    key_value_store,
    nearest_lookup,
    recall_overwriting,
)
from lsrl.programs.memory import (
    copy_delay,
    counting_sort,
    first_repeated,
    first_token,
    flip_flop,
    marked_pair,
    reverse,
    selective_copy,
    undo_flip_flop,
)
from lsrl.programs.prompted import (
    pipeline,
    pipeline_choices,
    pipeline_commands,
    pipeline_prompt,
)
from lsrl.programs.state_tracking import state_recall, swaps
from lsrl.programs.vector_maps import vec2vec, vec2vec_prompt

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
    "echo_sum",
    "encode_word",
    "even_pairs",
    "first_repeated",
    "first_token",
    "fleq",
    "fleq_functions",
    "flip_flop",
    "function_table",
    "gradient_step",
    "histogram",
    "in_order",
    "induction_head",
    "induction_hits",
    "key_value_store",
    "leader",
    "linear_interpolation",
    "longest_run",
    "majority",
    "majority_parity",
    "marked_pair",
    "modular_sum",
    "nearest_lookup",
    "ngram",
    "parity",
    "pattern_count",
    "permutations",
    "pipeline",
    "pipeline_choices",
    "pipeline_commands",
    "pipeline_prompt",
    "random_dictionary",
    "recall_overwriting",
    "reset_sum",
    "reverse",
    "run_length",
    "running_max",
    "selective_copy",
    "shuffle_dyck",
    "since_last",
    "state_recall",
    "subleq",
    "subleq_lm",
    "subleq_lm_text",
    "swaps",
    "threshold_learner",
    "tok2tok",
    "tok2tok_prompt",
    "undo_flip_flop",
    "vec2vec",
    "vec2vec_prompt",
    "window_majority",
]
