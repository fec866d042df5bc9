"""What a step of the denoiser learns from, and its losses."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from conversion.nano_text_encoder import write_tokenizer
from tests.training.nano.tiny_runs import DENOISER, random_clips, untrained_denoiser
from training.nano.denoiser_settings import Focus, Guided, OwnPredictions
from training.nano.denoiser_steps import draw_batch, losses, tokenize, with_own_predictions
from training.noise_schedule import alphas_cumprod
from training.v_prediction import denoised

pytestmark = pytest.mark.usefixtures("one_thread")
MANY = dataclasses.replace(DENOISER, batch=2000, opening_steps=1, prompt_dropout=0.2)
ALPHAS = alphas_cumprod(1.0).float()
# In place of tokens: the row and column of the table.
ROWS, WAYS = 73, 13
TABLE = torch.stack(torch.meshgrid(torch.arange(ROWS), torch.arange(WAYS), indexing="ij"), dim=-1)


def drawn(step, settings=MANY, clips=None, *, image_to_video=False):
    clips = clips or random_clips(144)
    return draw_batch(settings, clips, TABLE, ALPHAS, step, image_to_video=image_to_video)


def test_opening_steps_say_the_canonical_prompt_alone():
    ways = drawn(0).tokens[:, 1]
    assert set(ways.tolist()) == {0}


def test_later_the_canonical_prompt_comes_every_other_time():
    ways = drawn(1).tokens[:, 1]
    assert set(ways.tolist()) == set(range(WAYS))
    assert (ways == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_opening_steps_have_every_timestep_alike():
    settings = dataclasses.replace(MANY, focus=Focus(1.0, 100.0, 1.0))
    timesteps = drawn(0, settings).timesteps
    assert timesteps.dtype == torch.int64
    counts = torch.histc(timesteps.float(), 10, 0, 1000)
    assert counts.min() > 140
    assert counts.max() < 260


def test_later_timesteps_are_focused():
    settings = dataclasses.replace(MANY, focus=Focus(0.75, 600.0, 20.0))
    timesteps = drawn(1, settings).timesteps
    near = ((timesteps - 600).abs() < 60).float().mean().item()
    assert near == pytest.approx(0.75 * 0.997 + 0.25 * 0.12, abs=0.04)
    wide = drawn(1, dataclasses.replace(MANY, focus=Focus(1.0, 900.0, 900.0))).timesteps
    assert (wide.min(), wide.max()) == (0, 999)


def test_a_left_out_prompt_is_the_empty_one():
    batch = drawn(1)
    rows = batch.tokens[:, 0]
    assert torch.equal(rows == ROWS - 1, ~batch.prompted)
    assert batch.prompted.float().mean().item() == pytest.approx(0.8, abs=0.04)
    for share, expected in ((0.0, True), (1.0, False)):
        settings = dataclasses.replace(MANY, prompt_dropout=share)
        assert set(drawn(1, settings).prompted.tolist()) == {expected}


def test_noisy_latents_and_targets_give_the_clip_back():
    """x = √a·noisy − √(1−a)·v, and the rest is noise of variance 1."""
    clips = random_clips(144)
    batch = drawn(1, clips=clips)
    alphas = ALPHAS[batch.timesteps].reshape(-1, 1, 1, 1, 1)
    clean = alphas.sqrt() * batch.noisy - (1 - alphas).sqrt() * batch.target
    noise = (1 - alphas).sqrt() * batch.noisy + alphas.sqrt() * batch.target
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    for sample in range(50):
        distances = (clips.latents.float() - clean[sample]).abs().amax((1, 2, 3, 4))
        clip = int(distances.argmin())
        assert distances[clip] < 1e-4
        if batch.prompted[sample]:
            assert batch.tokens[sample, 0] == clips.words[clip]


def test_weights_have_mean_1_and_the_two_values_of_the_settings():
    weights = drawn(1).weights
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    low, high = weights.unique().tolist()
    assert high / low == pytest.approx(1 + MANY.shape_weight)


def test_a_step_s_batch_is_always_the_same():
    first, again, next_one = drawn(3), drawn(3), drawn(4)
    other = drawn(3, dataclasses.replace(MANY, seed=2))
    for name in ("noisy", "target", "weights", "timesteps", "tokens", "prompted"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.noisy, next_one.noisy)
    assert not torch.equal(first.noisy, other.noisy)
    assert first.condition is None


def test_a_batch_moves_as_it_is():
    batch = drawn(1).on(torch.device("cpu"))
    assert torch.equal(batch.noisy, drawn(1).noisy)
    assert batch.condition is None


class Linear:
    """In place of a denoiser: a multiple of its input, plus `words` where there is a prompt."""

    def __init__(self, words):
        self.factor = torch.tensor(0.7, requires_grad=True)
        self.words = words

    def __call__(self, noisy, timesteps, tokens, condition):
        prompted = (tokens[:, 0] != ROWS - 1).float().reshape(-1, 1, 1, 1, 1)
        return self.factor * noisy + self.words * prompted


FEW = dataclasses.replace(
    MANY, batch=12, opening_steps=0, prompt_dropout=0.4, guided=Guided(8, 700, 7.0)
)
EMPTY = torch.tensor([[ROWS - 1, 0]])


def fitting(batch):
    """The samples that the guided loss is about."""
    chosen = [n for n in range(8) if batch.prompted[n] and batch.timesteps[n] < 700]
    assert 0 < len(chosen) < 8
    return chosen


def sample_loss(batch, output, sample):
    return float((batch.weights[sample] * (output - batch.target[sample]) ** 2).mean())


def scales_of(monkeypatch, scales):
    """Have the guidance drawn as these."""
    generator = SimpleNamespace(uniform=lambda low, high, count: scales.double().numpy())
    monkeypatch.setattr("numpy.random.default_rng", lambda seed: generator)


def test_the_plain_loss_is_the_weighted_squared_error():
    batch = drawn(2, FEW)
    plain, _ = losses(Linear(0.0), batch, EMPTY, FEW, 2)
    expected = [sample_loss(batch, 0.7 * batch.noisy[n], n) for n in range(12)]
    assert plain.item() == pytest.approx(sum(expected) / 12, rel=1e-4)


def test_where_the_prompt_changes_nothing_the_guided_loss_is_the_plain_over_the_square(monkeypatch):
    batch = drawn(2, FEW)
    scales = torch.linspace(1, 7, 8)
    scales_of(monkeypatch, scales)
    _, guided = losses(Linear(0.0), batch, EMPTY, FEW, 2)
    expected = sum(
        sample_loss(batch, 0.7 * batch.noisy[n], n) / float(scales[n]) ** 2 for n in fitting(batch)
    )
    assert guided.item() == pytest.approx(expected / 12, rel=1e-4)


def test_the_guided_loss_is_that_of_what_guidance_makes(monkeypatch):
    """What the pipeline computes: without + scale · (with − without)."""
    batch = drawn(2, FEW)
    scales = torch.linspace(1, 7, 8)
    scales_of(monkeypatch, scales)
    _, guided = losses(Linear(0.3), batch, EMPTY, FEW, 2)
    expected = 0.0
    for n in fitting(batch):
        without = 0.7 * batch.noisy[n]
        with_prompt = without + 0.3
        taken = without + scales[n] * (with_prompt - without)
        expected += sample_loss(batch, taken, n) / float(scales[n]) ** 2
    assert guided.item() == pytest.approx(expected / 12, rel=1e-4)


def test_the_guided_loss_teaches_where_the_prompt_changes_nothing():
    denoiser = Linear(0.0)
    _, guided = losses(denoiser, drawn(2, FEW), EMPTY, FEW, 2)
    guided.backward()
    assert denoiser.factor.grad.abs() > 1e-3


@pytest.mark.parametrize("changed", [{"below": 0}, {"samples": 0}])
def test_without_fitting_samples_the_guided_loss_is_0(changed):
    settings = dataclasses.replace(FEW, guided=dataclasses.replace(FEW.guided, **changed))
    plain, guided = losses(Linear(0.3), drawn(2, settings), EMPTY, settings, 2)
    assert plain > 0
    assert guided == 0


def test_in_the_opening_there_is_no_guided_loss():
    settings = dataclasses.replace(FEW, opening_steps=3)
    _, guided = losses(Linear(0.3), drawn(2, FEW), EMPTY, settings, 2)
    assert guided == 0


def test_the_guidance_is_always_the_same_for_a_step():
    batch = drawn(2, FEW)
    values = [losses(Linear(0.3), batch, EMPTY, FEW, step)[1].item() for step in (2, 2, 3)]
    assert values[0] == values[1] != values[2]


OWN = dataclasses.replace(
    MANY,
    batch=400,
    guided=Guided(100, 1000, 7.0),
    own_predictions=OwnPredictions(1, 300, 300, 800, 50, 200),
)


def of_each(values):
    """One value a sample, to multiply latents with."""
    return values.reshape(-1, 1, 1, 1, 1)


def clean(batch):
    alphas = of_each(ALPHAS[batch.timesteps])
    return alphas.sqrt() * batch.noisy - (1 - alphas).sqrt() * batch.target


class Knowing:
    """In place of a denoiser: the velocity to the `latents`, off by `always` and by `words`.

    The latter only where there is a prompt.
    """

    def __init__(self, latents, *, always=0.0, words=0.0):
        self.latents, self.always, self.words = latents, always, words

    def __call__(self, noisy, timesteps, tokens, condition):
        self.given = SimpleNamespace(
            noisy=noisy, timesteps=timesteps, tokens=tokens, condition=condition
        )
        alphas = of_each(ALPHAS[timesteps])
        true = (alphas.sqrt() * noisy - self.latents.repeat(2, 1, 1, 1, 1)) / (1 - alphas).sqrt()
        return true + self.always + self.words * of_each(tokens[:, 0] != ROWS - 1)


def made(settings=OWN, step=2, *, always=0.0, words=0.0, image_to_video=False):
    """A batch, the one with own predictions, and what the denoiser was given."""
    batch = drawn(step, settings, image_to_video=image_to_video)
    own = settings.own_predictions.samples
    denoiser = Knowing(clean(batch)[-own:], always=always, words=words)
    after = with_own_predictions(denoiser, batch, EMPTY, ALPHAS, settings, step)
    return batch, after, denoiser.given


def noise_in(batch, latents):
    """The noise that makes the noisy latents of these."""
    alphas = of_each(ALPHAS[batch.timesteps[-len(latents) :]])
    return (batch.noisy[-len(latents) :] - alphas.sqrt() * latents) / (1 - alphas).sqrt()


def keeps_its_noise(batch, after):
    """Which samples have their old noise, given a denoiser that errs nowhere."""
    latents = clean(batch)[100:]
    old = (1 - of_each(ALPHAS[batch.timesteps[100:]])).sqrt() * batch.noisy[100:]
    old += of_each(ALPHAS[batch.timesteps[100:]]).sqrt() * batch.target[100:]
    return (noise_in(after, latents) - old).abs().amax((1, 2, 3, 4)) < 1e-4


def test_own_predictions_leave_the_first_samples_as_they_were():
    batch, after, _ = made(always=0.3)
    for name in ("noisy", "target", "weights", "timesteps"):
        before, now = getattr(batch, name), getattr(after, name)
        assert torch.equal(now[:100], before[:100])
        assert now.shape == before.shape
        assert now.dtype == before.dtype
    for name in ("tokens", "prompted"):
        assert torch.equal(getattr(after, name), getattr(batch, name))
    assert after.condition is None


def test_own_predictions_can_be_of_the_whole_batch():
    settings = dataclasses.replace(
        OWN,
        batch=12,
        guided=Guided(0, 1000, 7.0),
        own_predictions=dataclasses.replace(OWN.own_predictions, samples=12),
    )
    batch, after, _ = made(settings)
    assert torch.allclose(clean(after), clean(batch), atol=1e-4)
    assert (after.noisy != batch.noisy).flatten(1).any(1).all()


def test_the_denoiser_is_given_the_noised_originals_with_and_without_their_prompts():
    batch, _, given = made()
    first, second = given.noisy.chunk(2)
    assert torch.equal(first, second)
    alphas = of_each(ALPHAS[batch.timesteps[100:]])
    noise = (1 - alphas).sqrt() * batch.noisy[100:] + alphas.sqrt() * batch.target[100:]
    alphas = of_each(ALPHAS[given.timesteps[:300]])
    expected = alphas.sqrt() * clean(batch)[100:] + (1 - alphas).sqrt() * noise
    assert torch.allclose(first, expected, atol=1e-5)
    assert torch.equal(given.timesteps[:300], given.timesteps[300:])
    assert torch.equal(given.tokens, torch.cat([batch.tokens[100:], EMPTY.repeat(300, 1)]))
    assert given.condition is None


def test_what_is_predicted_without_error_is_the_original_with_less_noise():
    """Half of the time the noise is the old one, else another."""
    batch, after, _ = made()
    latents = clean(batch)[100:]
    noise = noise_in(after, latents)
    kept = keeps_its_noise(batch, after)
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    new = noise[~kept]
    assert new.mean().item() == pytest.approx(0, abs=0.01)
    assert new.flatten(1).std(1).sub(1).abs().max() < 0.08
    for other in (noise_in(batch, latents)[~kept], new.roll(1, 0), latents[~kept]):
        assert (new * other).flatten(1).mean(1).abs().max() < 0.12
    alphas = of_each(ALPHAS[after.timesteps[100:]])
    target = alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
    assert torch.allclose(after.target[100:], target, atol=1e-4)


def test_the_target_leads_to_the_original_whatever_was_predicted():
    batch, right, _ = made()
    after = with_own_predictions(Linear(0.3), batch, EMPTY, ALPHAS, OWN, 2)
    assert torch.equal(after.timesteps, right.timesteps)
    assert (after.noisy - right.noisy)[100:].flatten(1).std(1).min() > 0.05
    alphas = ALPHAS[after.timesteps]
    assert torch.allclose(denoised(after.noisy, after.target, alphas), clean(batch), atol=1e-4)


def test_weights_of_own_predictions_are_less_where_less_is_noise():
    batch, after, _ = made()
    share = (1 - ALPHAS[after.timesteps[100:]]).reshape(-1, 1, 1, 1, 1)
    assert torch.equal(after.weights[100:], batch.weights[100:] * share)


def test_timesteps_of_own_predictions_keep_to_the_settings():
    own = OwnPredictions(1, 300, 500, 503, 10, 12)
    _, after, given = made(dataclasses.replace(OWN, own_predictions=own))
    high = given.timesteps[:300]
    assert after.timesteps.dtype == high.dtype == torch.int64
    assert set(high.tolist()) == {500, 501, 502}
    assert set((high - after.timesteps[100:]).tolist()) == {10, 11, 12}
    low = made()[1].timesteps[100:]
    assert 300 - 200 <= low.min() < 200
    assert 650 < low.max() < 800 - 50


def shifts(*, always, words):
    """What errors of the velocity add to that velocity in the end, `[300, 3, 16, 8, 8]`.

    An error e of v makes the latents −√(1−a)·e wrong, and the noise kept of them √a·e.
    """
    batch, right, given = made()
    _, wrong, _ = made(always=always, words=words)
    high, low = of_each(ALPHAS[given.timesteps[:300]]), of_each(ALPHAS[right.timesteps[100:]])
    of_latents = -low.sqrt() * (1 - high).sqrt()
    of_noise = (1 - low).sqrt() * high.sqrt() * of_each(keeps_its_noise(batch, right))
    return (wrong.noisy - right.noisy)[100:] / (of_latents + of_noise)


def test_own_predictions_are_those_of_guidance():
    """Without the prompt + g · (with − without)."""
    prompted = drawn(2, OWN).prompted[100:]
    shift = shifts(always=0.0, words=1.0)
    scales = shift.mean((1, 2, 3, 4))
    assert torch.allclose(shift, of_each(scales).expand_as(shift), atol=0.01)
    assert scales[~prompted].abs().max() < 0.01
    assert 0.99 < scales[prompted].min() < 1.3
    assert 6.7 < scales[prompted].max() < 7.01
    assert scales[prompted].mean().item() == pytest.approx(4, abs=0.4)
    both = shifts(always=0.2, words=0.5)
    assert torch.allclose(both, of_each(0.2 + 0.5 * scales).expand_as(both), atol=0.02)


def test_guidance_of_own_predictions_is_at_most_that_of_the_settings():
    settings = dataclasses.replace(OWN, guided=Guided(100, 1000, 1.0))
    batch, after, _ = made(settings, words=0.5)
    told = batch.prompted[100:]
    _, expected, _ = made(settings, always=0.5)
    assert torch.allclose(after.noisy[100:][told], expected.noisy[100:][told], atol=1e-5)


def test_own_predictions_have_no_gradients():
    batch, denoiser = drawn(2, OWN), Linear(0.3)
    after = with_own_predictions(denoiser, batch, EMPTY, ALPHAS, OWN, 2)
    assert not any(part.requires_grad for part in (after.noisy, after.target, after.weights))
    assert torch.is_grad_enabled()


def test_own_predictions_hand_the_image_along():
    batch, after, given = made(image_to_video=True)
    assert batch.condition.any()
    assert torch.equal(given.condition, batch.condition[100:].repeat(2, 1, 1, 1, 1))
    assert torch.equal(after.condition, batch.condition)


def test_own_predictions_are_always_the_same_for_a_step():
    batch = drawn(2, OWN)
    first, again, other = (
        with_own_predictions(Linear(0.3), batch, EMPTY, ALPHAS, OWN, step) for step in (2, 2, 3)
    )
    for name in ("noisy", "target", "weights", "timesteps"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    seeded = dataclasses.replace(OWN, seed=2)
    after = with_own_predictions(Linear(0.3), batch, EMPTY, ALPHAS, seeded, 2)
    assert not torch.equal(after.timesteps, first.timesteps)


def test_the_loss_falls_on_one_batch(tmp_path):
    denoiser = untrained_denoiser(tmp_path)
    settings = dataclasses.replace(DENOISER, opening_steps=0)
    table = torch.arange(73 * 13 * 16).reshape(73, 13, 16) % 100
    batch = draw_batch(settings, random_clips(3), table, ALPHAS, 1, image_to_video=False)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.002)
    both = []
    for _ in range(12):
        plain, guided = losses(denoiser, batch, table[72, :1], settings, 1)
        optimizer.zero_grad()
        (plain + guided).backward()
        optimizer.step()
        both.append((plain + guided).item())
    assert both[-1] < 0.8 * both[0]


def test_prompts_are_padded_to_what_the_transformer_reads(tmp_path):
    from transformers import T5Tokenizer

    write_tokenizer(tmp_path)
    tokenizer = T5Tokenizer.from_pretrained(tmp_path)
    ids = tokenize(tokenizer, ["", "a red circle moving left"])
    assert ids.shape == (2, 16)
    assert ids[0].tolist() == [1] + [0] * 15
    assert ids[1, 5:].tolist() == [1] + [0] * 10
