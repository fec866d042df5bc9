import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conversion import component_configs, transformer_rules, vae_rules
from conversion.rules import (
    Drop,
    Piece,
    Rule,
    plan_forward,
    plan_inverse,
    regroup,
    rename,
    source_shapes,
    split,
    target_shapes,
)
from weights.errors import UserError
from weights.variants import VARIANTS


@st.composite
def tables(draw):
    """Random tables: every source is cut into chunks that are dealt to random targets."""
    rules = []
    for n in range(draw(st.integers(1, 4))):
        chunks = draw(st.integers(1, 6))
        order = draw(st.permutations(range(chunks)))
        cuts = sorted(draw(st.sets(st.integers(1, chunks - 1)))) if chunks > 1 else []
        groups = [
            tuple(order[a:b]) for a, b in zip([0, *cuts], [*cuts, chunks], strict=True) if a < b
        ]
        rows = chunks * draw(st.integers(1, 3))
        shape = (rows, *draw(st.lists(st.integers(1, 3), max_size=2)))
        targets = tuple((f"target{n}.{i}", group) for i, group in enumerate(groups))
        rules.append(Rule(f"source{n}", shape, targets, chunks))
    return rules


def assembled(plan, tensors):
    return {
        t.name: torch.cat([tensors[p.name][p.start : p.stop] for p in t.pieces])
        for t in plan.tensors
    }


@given(tables())
def test_inverse_undoes_forward(rules):
    source = {
        rule.source: torch.arange(torch.Size(rule.shape).numel()).reshape(rule.shape)
        for rule in rules
    }
    plan = plan_forward(rules, {name: tuple(t.shape) for name, t in source.items()}, "file")
    target = assembled(plan, source)
    assert {name: tuple(t.shape) for name, t in target.items()} == target_shapes(rules)
    back = assembled(plan_inverse(rules, target_shapes(rules), "file"), target)
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)


def test_chunks_go_where_the_rule_says():
    rules = [regroup("a", {"x": (0, 2), "y": (1, 3)}, 8, 2), split("q", ("r", "s"), 4)]
    plan = plan_forward(rules, source_shapes(rules), "file")
    pieces = {t.name: t.pieces for t in plan.tensors}
    assert pieces["x"] == (Piece("a", 0, 2), Piece("a", 4, 6))
    assert pieces["s"] == (Piece("q", 2, 4),)
    assert {t.name: t.shape for t in plan.tensors}["x"] == (4, 2)


def test_a_dropped_tensor_is_reported_and_may_be_absent():
    rules = [rename("a", "b", 2), Drop("buffer*")]
    assert plan_forward(rules, {"a": (2,), "buffer1": (5,)}, "file").left_out == ("buffer1",)
    assert plan_forward(rules, {"a": (2,)}, "file").left_out == ()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "missing: a"),
        ({"a": (2,), "stray": (1,)}, "unknown: stray"),
        ({"a": (3,)}, r"of the wrong shape: a is \[3\], not \[2\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(found, message):
    with pytest.raises(UserError, match=message):
        plan_forward([rename("a", "b", 2)], found, "file")


def test_many_names_are_not_all_listed():
    with pytest.raises(UserError, match="and 7 more"):
        plan_forward([rename(f"a{i}", f"b{i}", 1) for i in range(12)], {}, "file")


@pytest.mark.parametrize(
    "rules",
    [
        [rename("a", "b", 1), rename("a", "c", 1)],
        [rename("a", "b", 1), rename("c", "b", 1)],
        [Rule("a", (4,), (("b", (0, 0)),), 2)],
        [Rule("a", (3,), (("b", (0, 1)),), 2)],
    ],
)
def test_a_table_that_contradicts_itself_is_a_defect(rules):
    with pytest.raises(AssertionError):
        plan_forward(rules, source_shapes(rules), "file")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
def test_tables_write_exactly_the_tensors_of_the_diffusers_models(variant):
    """At full size, every name and shape; on the meta device nothing is allocated."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    vae = vae_rules.architecture_of(variant)
    with torch.device("meta"):
        models = (
            CogVideoXTransformer3DModel.from_config(component_configs.transformer_config(variant)),
            AutoencoderKLCogVideoX.from_config(component_configs.vae_config(variant, vae)),
        )
    architecture = transformer_rules.architecture_of(variant)
    tables = (
        transformer_rules.transformer_rules(
            architecture, learned_positions=variant.learned_positions
        ),
        vae_rules.vae_rules(vae),
    )
    for model, table in zip(models, tables, strict=True):
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        assert target_shapes(table) == shapes
