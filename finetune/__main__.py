"""`python -m finetune`, for where the console script is not on the path."""

from finetune.cli import main
from finetune.cli.startup import follow_lifeline

if __name__ == "__main__":
    follow_lifeline()
    main(prog_name="finetune")
