"""The options of the command line are written down: one that vanishes or appears does so on purpose."""

from pathlib import Path

import typer

from pixelwise.cli import app

FROZEN = Path(__file__).with_name("flags.txt")


def flags() -> list[str]:
    """Each argument and option of each command, one per line."""
    group = typer.main.get_command(app)
    lines = [
        f"pixelwise {name}" for option in group.params for name in (*option.opts, *option.secondary_opts)
    ]
    named = dict(group.commands)
    for outer, command in group.commands.items():
        for inner, below in getattr(command, "commands", {}).items():
            named[f"{outer} {inner}"] = below
    for command_name, command in named.items():
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                lines.append(f"pixelwise {command_name} {parameter.name.upper()}")
            else:
                names = (*parameter.opts, *parameter.secondary_opts)
                lines += [f"pixelwise {command_name} {name}" for name in names]
    return sorted(lines)


def test_the_flags_are_the_frozen_ones() -> None:
    # To change them on purpose: python tests/cli/test_flags.py
    assert flags() == FROZEN.read_text().splitlines()


if __name__ == "__main__":
    FROZEN.write_text("\n".join(flags()) + "\n")
