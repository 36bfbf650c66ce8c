"""The command line: parse, call one library function, print. Only the commands themselves import TensorFlow."""

import errno
import io
import os
import sys
from typing import Any, NoReturn

import click

from checkpoints.atomic import refusal
from finetune._version import __version__
from finetune.cli.average_command import average
from finetune.cli.backbones_command import backbones
from finetune.cli.batch_command import batch
from finetune.cli.cache_command import cache
from finetune.cli.checkpoint_command import checkpoint
from finetune.cli.completion_command import completion
from finetune.cli.data_command import data
from finetune.cli.demo_command import demo
from finetune.cli.diagnosis_commands import diagnose_bn, recalibrate_bn
from finetune.cli.env_command import env
from finetune.cli.export_command import export
from finetune.cli.inference_commands import evaluate, features, predict
from finetune.cli.migrate_command import migrate
from finetune.cli.report_command import report
from finetune.cli.run_command import run
from finetune.cli.terminal import neutral_streams
from finetune.errors import UserError
from finetune.process import set_environment
from finetune.text import first_line


class _Translating(click.Group):
    """The command group. It alone translates exceptions into a message and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command; on any failure print one message on standard error and exit."""
        set_environment()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a character that the terminal lacks must not end a run
        with neutral_streams():
            return self._run(*args, **options)

    def _run(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "finetune"
            _fail(f"{error.format_message().rstrip('.')} (see '{path} --help')", 2)
        except UserError as error:
            _fail(str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted", 130)
        except MemoryError:
            _fail(_NO_MEMORY, 1)
        except OSError as error:
            _fail(_os_error(error), 1)
        except Exception as error:
            _fail(_unexpected(error), 1)


@click.group(
    cls=_Translating,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 failed, 2 wrong use, 3 the diagnosis found BatchNorm unhealthy, "
    "4 the images cannot show whether it is, 130 interrupted.",
)
@click.version_option(__version__, prog_name="finetune")
def main() -> None:
    """Transfer pretrained image backbones to new data, with BatchNorm done right."""


for _command in (
    *(run, batch, average, data, evaluate, report, diagnose_bn, recalibrate_bn, predict, features, export),
    *(backbones, checkpoint, migrate, completion, cache, demo, env),
):
    main.add_command(_command)

_NO_MEMORY = "out of memory: lower --batch-size or --image-size, or choose a smaller --backbone"


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


def _os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    then = "; ".join(getattr(error, "__notes__", ["repeat the command"]))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where and ' while writing'}{where}: free some space, then {then}"
    if error.errno == errno.EFBIG:
        return f"the file{where} would be larger than is allowed: raise the limit ('ulimit -f'), then {then}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for{where}: choose another place, or change its owner or mode"
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # what network file systems say of locks
        return f"{error.strerror}:{where}: choose a folder on a file system that locks files (docs/cluster.md)"
    return f"{error.strerror or error}{where and ':'}{where}"


def _unexpected(error: Exception) -> str:
    if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's class; importing it here would take seconds
        return _os_error(OSError(full, "")) if (full := refusal(str(error))) else _NO_MEMORY
    if os.environ.get("FINETUNE_TRACEBACK"):
        raise error
    return (
        f"unexpected {type(error).__name__}: {first_line(error)}. This is a defect of finetune: please report it, with "
        "what FINETUNE_TRACEBACK=1 shows"
    )
