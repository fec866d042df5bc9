import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.lora.base_model import check_base, recorded_base
from weights.errors import UserError
from weights.transformer_modules import module_shapes
from weights.variants import VARIANTS

SHAPES = {name: module_shapes(variant) for name, variant in VARIANTS.items()}


@given(trained=st.sampled_from(sorted(VARIANTS)), data=st.data())
def test_a_lora_fits_exactly_the_variants_that_have_its_modules(trained, data):
    modules = data.draw(
        st.lists(st.sampled_from(sorted(SHAPES[trained])), min_size=1, max_size=20, unique=True)
    )
    shapes = {module: SHAPES[trained][module] for module in modules}
    fitting = {n for n, s in SHAPES.items() if all(s.get(m) == shapes[m] for m in modules)}
    assert trained in fitting
    for name, variant in VARIANTS.items():
        if name in fitting:
            note = check_base(shapes, None, variant)
            assert (note is None) == (fitting == {name})
        else:
            with pytest.raises(UserError) as caught:
                check_base(shapes, None, variant)
            assert all(other in caught.value.given for other in fitting)


@pytest.mark.parametrize(
    ("metadata", "base_model", "variant"),
    [
        ({"variant": "nano"}, "THUDM/CogVideoX-2b", "nano"),
        ({}, "THUDM/CogVideoX-2b", "cogvideox-2b"),
        ({}, "zai-org/CogVideoX-5b-I2V", "cogvideox-5b-i2v"),
        ({}, "zai-org/CogVideoX1.5-5B-I2V", "cogvideox1.5-5b-i2v"),
        ({}, "/data/models/CogVideoX-5b/", "cogvideox-5b"),
        ({"variant": "my-own"}, "CogVideoX-5b", "cogvideox-5b"),
        ({}, "black-forest-labs/FLUX.1-dev", None),
        ({}, "/", None),
        ({}, None, None),
    ],
)
def test_the_base_that_a_file_records(metadata, base_model, variant):
    assert recorded_base(metadata, base_model) == variant
