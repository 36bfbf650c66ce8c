"""The command `finetune`, and `python -m finetune` for where the console script is not on the path."""

import sys

from finetune import FinetuneError, require_posix


def main() -> None:
    """Run the command line, whose modules cannot be imported on Windows."""
    try:
        require_posix()
    except FinetuneError as error:
        sys.exit(f"Error: {error}")
    from finetune.cli import main as command
    from finetune.cli.startup import follow_lifeline

    follow_lifeline()
    command(prog_name="finetune")


if __name__ == "__main__":
    main()
