"""Programs for the computers of the library: assembler, plain interpreters, prompts, traces."""

from lsrl.machine.assembler import assemble
from lsrl.machine.image import Image
from lsrl.machine.subleq import Step, Subleq, disassemble

__all__ = ["Image", "Step", "Subleq", "assemble", "disassemble"]
