"""The command line: parse, call one library function, print. TensorFlow is imported inside commands only."""

import errno
import sys
from typing import Any

import click

from checkpoints.errors import CheckpointError
from finetune._version import __version__
from finetune.cli import backbones, demo, diagnose, evaluate, recalibrate, run
from finetune.errors import FinetuneError


class _Translating(click.Group):
    """The one place where an exception becomes a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FinetuneError, CheckpointError) as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except MemoryError:
            _fail("out of memory: lower --batch-size or --image-size", 1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                sys.exit(1)
            _fail(_os_error(error), 1)


@click.group(
    cls=_Translating,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 failed, 2 wrong use, 3 the diagnosis found BatchNorm unhealthy.",
)
@click.version_option(__version__, prog_name="finetune")
def main() -> None:
    """Transfer pretrained image backbones to new data, with BatchNorm done right."""


for _command in (run.run, evaluate.evaluate, diagnose.diagnose_bn, recalibrate.recalibrate_bn, backbones.backbones):
    main.add_command(_command)
main.add_command(demo.demo)


def _fail(message: str, exit_code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full{where and ' while writing'}{where}: free some space and repeat the command; a run goes "
            "on with 'finetune run --resume RUN'"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for{where}: choose another place, or change its owner or mode"
    return f"{error.strerror or error}{where and ':'}{where}"
