"""Programs for the computers of the library: assembler, plain interpreters, prompts, traces."""

from lsrl.machine.assembler import assemble
from lsrl.machine.fleq import Fleq, FleqImage, FleqStep
from lsrl.machine.image import Image
from lsrl.machine.library import MachineProgram, programs
from lsrl.machine.subleq import Step, Subleq, disassemble

__all__ = [
    "Fleq",
    "FleqImage",
    "FleqStep",
    "Image",
    "MachineProgram",
    "Step",
    "Subleq",
    "assemble",
    "disassemble",
    "programs",
]
