"""`python -m finetune`, for where the console script is not on the path."""

from finetune.cli import main

main(prog_name="finetune")
