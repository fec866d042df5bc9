import pytest

from cli.main import VERBS, main
from weights.errors import OperationError, UserError


@pytest.fixture
def variants_verb(monkeypatch):
    """Lets a test replace what `cogvideox variants` does."""

    def replace(run):
        monkeypatch.setattr("cli.variants.run", run)

    return replace


def raising(error):
    def run(_):
        raise error

    return run


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: cogvideox {verb}" in out
    assert f"  cogvideox {verb}" in out.partition("examples:")[2]


def test_an_unknown_verb_is_wrong_usage(capsys):
    assert main(["fry"]) == 2
    assert "no verb 'fry'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("a.", "b.", "c."), 2), (OperationError("a.", "b.", "c."), 1)],
)
def test_an_error_is_a_message_and_an_exit_code(error, code, variants_verb, capsys):
    variants_verb(raising(error))
    assert main(["variants"]) == code
    assert capsys.readouterr().err == "cogvideox variants: a. b. c.\n"


def test_debug_shows_the_traceback(variants_verb):
    variants_verb(raising(UserError("a.", "b.", "c.")))
    with pytest.raises(UserError):
        main(["variants", "--debug"])


def test_a_defect_of_ours_says_how_to_see_more(variants_verb, capsys):
    variants_verb(raising(ZeroDivisionError("by zero")))
    assert main(["variants"]) == 1
    assert "ZeroDivisionError: by zero" in (err := capsys.readouterr().err)
    assert "--debug" in err
    assert "Traceback" not in err


def test_ctrl_c_is_not_a_traceback(variants_verb, capsys):
    variants_verb(raising(KeyboardInterrupt()))
    assert main(["variants"]) == 1
    assert capsys.readouterr().err == "cogvideox variants: interrupted.\n"
