import pytest

from sessions.text import markdown_text, whole_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mixtral-8x7b v0.1 (Q4)", "mixtral-8x7b v0.1 (Q4)"),
        ("a|b", r"a\|b"),
        ("[x](y) <b> `c` **d** # e", r"\[x\](y) \<b\> \`c\` \*\*d\*\* \# e"),
        ("\x1b[31m\u202e\n", r"⟨001B⟩\[31m⟨202E⟩⟨000A⟩"),
        ("\\|", r"\\\|"),
    ],
)
def test_text_on_a_page_is_no_markup(text, shown):
    assert markdown_text(text) == shown


def test_lone_surrogates_are_replaced():
    assert whole_text("a\udc80b") == "a\N{REPLACEMENT CHARACTER}b"
