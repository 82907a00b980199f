"""Memory images: what a machine's memory holds before its first instruction."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from lsrl.arguments import near, shown
from lsrl.errors import AssemblyError, InputError


@final
@dataclass(frozen=True)
class Image(Mapping[int, int]):
    """A dict from address to number, which knows the labels and lines of its text.

    Attributes:
      words: number by address.
      labels: address by name.
      lines: line of the text by address, for errors.

    Example:
      print(times.image(x=3, y=4).address("product"))
    """

    words: Mapping[int, int]
    labels: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)

    def __getitem__(self, address: int) -> int:
        """The number at an address."""
        return self.words[address]

    def __iter__(self) -> Iterator[int]:
        """The addresses that hold something, in their order."""
        return iter(sorted(self.words))

    def __len__(self) -> int:
        """How many words there are."""
        return len(self.words)

    def address(self, label: str) -> int:
        """Where a label stands.

        Raises:
          InputError: there is no such label.
        """
        return self.labels[known("label", label, self.labels)]

    def put(self, **values: object) -> "Image":
        """The image with numbers at labels: one, or a memory image that begins there.

        Raises:
          InputError: there is no such label, or what is to lie there are no whole numbers.

        Example: `lsrl.machine.assemble(text).put(x=6, y=7)`.
        """
        words, lines = dict(self.words), dict(self.lines)
        for label, given in values.items():
            address = self.address(label)
            part = image_of(given if isinstance(given, Iterable) else [given], f"label {label!r}")
            words |= {address + place: part[place] for place in part}
            lines |= {address + place: self.lines.get(address, 0) for place in part}
        return replace(self, words=words, lines=lines)

    def fault(self, address: int, message: str) -> InputError | AssemblyError:
        """An error about the word at an address, at its line where that is known."""
        line = self.lines.get(address, 0)
        return AssemblyError(line, message) if line else InputError(message)


def known(what: str, name: object, names: Iterable[str]) -> str:
    """A name of a text, out of those that it has.

    Raises:
      InputError: there is no such name.
    """
    found = list(names)
    if isinstance(name, str) and name in found:
        return name
    hint = near(name, found) or f"; it has {', '.join(found) or 'none'}"
    raise InputError(f"the text has no {what} {shown(name)}{hint}")


def image_of(memory: object, what: str = "memory") -> Image:
    """An image of a sequence of numbers from address 0 on, or of a dict from address to number.

    Args:
      memory: the numbers, or an image, which stays as it is.
      what: they are, for errors.

    Raises:
      InputError: it is neither, or what it holds are no whole numbers.
    """
    if isinstance(memory, Image):
        return memory
    if isinstance(memory, Mapping):
        pairs = list(memory.items())
    elif isinstance(memory, Iterable) and not isinstance(memory, str | bytes):
        pairs = list(enumerate(memory))
    else:
        raise InputError(
            f"{what}: expected a sequence of numbers or a dict from address to number, got "
            f"{type(memory).__name__}; of a text, lsrl.machine.assemble makes one"
        )
    words: dict[int, int] = {}
    for address, word in pairs:
        try:
            words[int(address)] = int(word)
            if words[int(address)] != word or int(address) != address:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{what}: expected whole numbers, got {shown(word)} at address {shown(address)}"
            ) from None
    return Image(words)
