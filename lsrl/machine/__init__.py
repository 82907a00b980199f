"""Programs for the computers of the library: assembler, plain interpreters, prompts, traces."""

from lsrl.machine.assembler import assemble
from lsrl.machine.disassembler import disassemble
from lsrl.machine.films import Film, Frame, film
from lsrl.machine.fleq import Fleq, FleqImage, FleqStep
from lsrl.machine.image import Image
from lsrl.machine.library import MachineProgram, programs
from lsrl.machine.pages import segments
from lsrl.machine.session import Machine, Session, card, cards, interpret, trace
from lsrl.machine.subleq import Step, Subleq

__all__ = [
    "Film",
    "Fleq",
    "FleqImage",
    "FleqStep",
    "Frame",
    "Image",
    "Machine",
    "MachineProgram",
    "Session",
    "Step",
    "Subleq",
    "assemble",
    "card",
    "cards",
    "disassemble",
    "film",
    "interpret",
    "programs",
    "segments",
    "trace",
]
