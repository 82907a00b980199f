"""The symbols of a language model that carries out a program, and its tokenizer."""

import json
from typing import NamedTuple

from lsrl.extras import needed
from lsrl.ir.types import Token
from lsrl.language.program import Program

# A tokenizer's files.
TOKENIZER = "tokenizer.json", "tokenizer_config.json"


class Vocabulary(NamedTuple):
    """The symbols of a checkpoint: as many as the larger of input and output has.

    Behind them are two rows more, which are no symbols: any other word, and what fills up texts.

    Attributes:
      words: what the tokenizer calls each symbol: its name as an input.
      answers: what each symbol means as an output.
      inputs: how many symbols the program reads.
      outputs: how many it says.
      others: names of the further rows: "[UNK]" and "[PAD]", or longer where words have these.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]
    inputs: int
    outputs: int
    others: tuple[str, str]

    @property
    def size(self) -> int:
        """Number of symbols."""
        return len(self.words)

    @property
    def rows(self) -> int:
        """Number of rows of the embedding and the head."""
        return self.size + len(self.others)

    @property
    def unknown(self) -> int:
        """The row of words that are no symbols."""
        return self.size

    @property
    def padding(self) -> int:
        """The row that fills up texts."""
        return self.size + 1


def vocabulary_of(program: Program) -> Vocabulary | None:
    """The symbols of a program that a causal language model has a place for.

    None where it has none: the program has not one Token input and a Token output.
    """
    kinds = list(program.inputs.values())
    out = program.output_type
    if len(kinds) != 1 or not isinstance(kinds[0], Token) or out is None:
        return None
    size = max(kinds[0].size, out.size)
    # Words must differ, even if an input is called "7" and there is a symbol 7 without a name.
    words = _completed(kinds[0].names or _numbers(kinds[0].size), out.names or (), size)
    answers = _completed(out.names or _numbers(out.size), (), size)
    unknown, padding = (_apart(name, words + answers) for name in ("[UNK]", "[PAD]"))
    return Vocabulary(words, answers, kinds[0].size, out.size, (unknown, padding))


def _numbers(size: int) -> tuple[str, ...]:
    return tuple(str(symbol) for symbol in range(size))


def _completed(names: tuple[str, ...], others: tuple[str, ...], size: int) -> tuple[str, ...]:
    """Names for all symbols: those given, else those of `others`, else numbers."""
    found = list(names)
    for symbol in range(len(names), size):
        wanted = others[symbol] if symbol < len(others) else str(symbol)
        while wanted in found:
            wanted = f"<{wanted}>"
        found.append(wanted)
    return tuple(found)


def _apart(name: str, words: tuple[str, ...]) -> str:
    """A name that no word has in it: a tokenizer finds its special tokens within words too."""
    while any(name in word for word in words):
        name = f"<{name}>"
    return name


def tokenizer_files(vocabulary: Vocabulary, max_length: int | None) -> dict[str, bytes]:
    """The files of a tokenizer that splits at blanks, and adds nothing unless asked to fill up."""
    needed("tokenizers", "export: 'huggingface'")
    from tokenizers import Tokenizer, models, pre_tokenizers

    unknown, padding = vocabulary.others
    ids = {word: row for row, word in enumerate((*vocabulary.words, unknown, padding))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([unknown, padding])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # A text may begin with it, as some tools have texts begin: nothing comes of it.
        "bos_token": padding,
        "unk_token": unknown,
        "pad_token": padding,
        # Generation goes on from the last token, which is to be the text's own.
        "padding_side": "left",
        **({} if max_length is None else {"model_max_length": max_length}),
    }
    return {
        TOKENIZER[0]: f"{tokenizer.to_str(pretty=True)}\n".encode(),
        TOKENIZER[1]: to_json(settings),
    }


def to_json(value: object) -> bytes:
    """A file that people read too; what UTF-8 has no bytes for is escaped, as JSON does."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")
