"""The model card: every name in it is only a name."""

import re

import pytest

from finetune.reporting import rendering


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name", "plain name"),
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("[x](http://y)", r"\[x\]\(http://y\)"),
        ("**a** `b` _c_", r"\*\*a\*\* \`b\` \_c\_"),
        ("two\nlines\x1b", r"two\\nlines\\x1b"),
        ("a\\", r"a\\"),
    ],
)
def test_names_are_no_markup(text, shown):
    assert rendering.escaped(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x", "`x`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b", r"`a\|b`"), ("a\nb", r"`a\nb`"), ("", "`  `")],
)
def test_code_is_fenced_whatever_is_in_it(text, shown):
    assert rendering.code(text) == shown
    ticks = re.match("`+", shown)[0]
    assert shown.endswith(ticks)
    assert ticks not in text
