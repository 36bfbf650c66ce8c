"""The command `finetune completion`, and the completion of backbone names."""

import click
from click.shell_completion import CompletionItem, get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options and backbones.

    \b
    bash: echo 'eval "$(finetune completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(finetune completion zsh)"' >> ~/.zshrc
    fish: finetune completion fish > ~/.config/fish/completions/finetune.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    script = kind(ctx.find_root().command, {}, "finetune", "_FINETUNE_COMPLETE")
    if shell == "bash":
        # `source()` would check the version of the bash found now, which need not be the one that reads the script.
        click.echo(script.source_template % script.source_vars())
    else:
        click.echo(script.source())


def complete_backbone(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the catalogue that begin with `incomplete`; files if there are none."""
    from checkpoints.catalog import lookup

    ids = [spec.id for spec in lookup.CATALOG]
    names = sorted({*ids, *(one.partition("/")[2] for one in ids)})
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
