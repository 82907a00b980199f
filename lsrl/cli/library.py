"""`lsrl programs` and `lsrl targets`: what there is."""

from rich.table import Table

from lsrl.cli.printing import cell, print_table
from lsrl.cli.subject import settings_of


def list_programs() -> None:
    """List the library of programs, with what each shows and its parameters.

    Example: lsrl programs
    """
    import lsrl

    table = Table("program", "shows", "parameters", show_lines=True)
    for name, entry in lsrl.programs.catalogue().items():
        table.add_row(name, cell(entry.shows), cell(", ".join(settings_of(entry.build))))
    print_table(table)


def list_targets() -> None:
    """List the targets, with what each of them can hold.

    Example: lsrl targets
    """
    import lsrl

    table = Table("target", "cell", "holds", show_lines=True)
    for target in lsrl.targets():
        holds = "\n".join(f"{feature}: {how}" for feature, how in target.supports.items())
        table.add_row(target.name, cell(target.cell), cell(holds))
    print_table(table)
