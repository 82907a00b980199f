"""`lsrl programs` and `lsrl targets`: what there is."""

import inspect

from rich.table import Table

from lsrl.cli.options import AsJson
from lsrl.cli.printing import cell, print_table, say_json
from lsrl.cli.subject import settings_of


def list_programs(json: AsJson = False) -> None:
    """List the library of programs, with what each shows and its parameters.

    Examples:
      lsrl programs
      lsrl programs --json | jq '.[].program'
    """
    import lsrl

    catalogue = lsrl.programs.catalogue()
    if json:
        say_json(
            {
                "program": name,
                "shows": entry.shows,
                "parameters": {
                    parameter.name: parameter.default
                    for parameter in inspect.signature(entry.build).parameters.values()
                },
            }
            for name, entry in catalogue.items()
        )
        return
    table = Table("program", "shows", "parameters", show_lines=True)
    for name, entry in catalogue.items():
        table.add_row(name, cell(entry.shows), cell(", ".join(settings_of(entry.build))))
    print_table(table)


def list_targets(json: AsJson = False) -> None:
    """List the targets, with what each of them can hold, and the formats that models export to.

    Examples:
      lsrl targets
      lsrl targets --json
    """
    import lsrl

    targets = lsrl.targets()
    if json:
        say_json(
            {
                "target": target.name,
                "cell": target.cell,
                "holds": dict(target.supports),
                "exports": list(target.formats),
            }
            for target in targets
        )
        return
    table = Table("target", "cell", "holds", "exports", show_lines=True)
    for target in targets:
        holds = "\n".join(f"{feature}: {how}" for feature, how in target.supports.items())
        formats = ", ".join(target.formats)
        table.add_row(target.name, cell(target.cell), cell(holds), cell(formats))
    print_table(table)
