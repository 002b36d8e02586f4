import msgspec
import pytest

from moe_watch.sessions.text import UNKNOWN, markdown_text, plural, weights_text, whole_text
from tests.sessions.kit import MODEL


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


def test_one_thing_is_not_several():
    assert [plural(number, "run") for number in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]


@pytest.mark.parametrize(
    ("architecture", "quantization", "said"),
    [
        ("mixtral", "4-bit affine", "4-bit affine"),
        ("mixtral", None, "not quantized"),
        (UNKNOWN, None, "quantization not known"),
    ],
)
def test_weights_are_called_unquantised_only_by_an_engine(architecture, quantization, said):
    model = msgspec.structs.replace(MODEL, architecture=architecture, quantization=quantization)
    assert weights_text(model) == said
