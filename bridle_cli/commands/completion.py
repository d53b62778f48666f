"""`bridle completion`: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.main import COMPLETE, commands


@click.command(name="completion", cls=options.Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@options.shared
@click.pass_obj
def command(console: Console, shell: str) -> None:
    """Print the completion script of a shell.

    bash must be 4.4 or newer.

    \b
    Examples:
      bridle completion bash > ~/.local/share/bash-completion/completions/bridle
      bridle completion zsh > ~/.zfunc/_bridle     # with fpath+=~/.zfunc before compinit in ~/.zshrc
      bridle completion fish > ~/.config/fish/completions/bridle.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(commands, {}, "bridle", COMPLETE).source()
    if console.json:
        console.record({"shell": shell, "script": script})
    else:
        console.text(script + "\n")
