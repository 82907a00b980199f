"""Mamba-2: programs in blocks of one head a channel, equal to the class of transformers."""

import numpy as np
import pytest

import lsrl
from lsrl.backends import mamba2
from lsrl.errors import UnsupportedOpError
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import compare

pytestmark = pytest.mark.one_in(2)


@lsrl.program(max_length=1000)
def everything(x: lsrl.Token(8)) -> lsrl.Token(40):
    """What a block holds: sums, holds, delays, ReLUs, products of signed numbers and of bits."""
    number = x - 3
    steps = lsrl.clip(lsrl.cumsum(x == 7) - lsrl.cumsum(x == 6), -2, 2)
    taken = lsrl.hold(number, lsrl.delay(x, 3) > 4)
    product = steps * lsrl.delay(number, 2)
    gated = lsrl.select(x > 2, taken, 1)
    return lsrl.clip(product + gated + 20, 0, 39)


@pytest.fixture(scope="module")
def model():
    return lsrl.compile(everything, "mamba2")


def test_a_block_holds_what_programs_ask_for(model):
    """Over a thousand tokens, and token by token."""
    assert model.certificate.exact
    ids = np.random.default_rng(0).integers(0, 8, (4, 1000))
    whole = model.run(ids)
    np.testing.assert_array_equal(whole, everything.run(ids))
    state = model.init_state(4)
    for token in range(30):
        output, state = model.step(state, ids[:, token])
        np.testing.assert_array_equal(output, whole[:, token])
    # A switch is read off the stream, and not made of the hold's own block.
    channels = [c for site in model.schedule.sites for c in site.channels if c.mode == "hold"]
    assert channels and all(c.switch is not None and not c.flag for c in channels)


def test_the_class_of_transformers_says_the_same_in_every_way(model, transformers, tmp_path):
    """Whole, from its cache in parts and by tokens, and behind padding: bit for bit."""
    import torch

    from lsrl.testing.checkpoints import made, made_from_cache, read_checkpoint

    model.export("huggingface", tmp_path / "model")
    theirs = read_checkpoint(tmp_path / "model").theirs
    assert type(theirs) is transformers.Mamba2ForCausalLM
    ids = np.random.default_rng(1).integers(0, 8, (3, 70))
    given = torch.from_numpy(ids)
    whole = made(theirs, given)
    np.testing.assert_array_equal(whole.argmax(-1), everything.run(ids)[..., 0])
    ours = model.module.logits((ids.astype(np.int32),), 40)
    np.testing.assert_array_equal(ours, whole[..., :40].numpy())
    for parts in ([1] * 70, [40, 30], [5, 1, 64]):
        assert torch.equal(made_from_cache(theirs, given, parts), whole)
    ahead = torch.full((3, 9), theirs.config.pad_token_id)
    mask = torch.cat([torch.zeros_like(ahead), torch.ones_like(given)], dim=1)
    padded = torch.cat([ahead, given], dim=1)
    for options in ({}, {"attention_mask": mask}):
        assert torch.equal(made(theirs, padded, **options)[:, 9:], whole)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(3, marks=pytest.mark.studies),
        pytest.param(range(20, 60), marks=pytest.mark.nightly),
    ],
)
def test_random_programs(seed):
    for number in [seed] if isinstance(seed, int) else seed:
        program = random_program(number, depth=5, width=4, max_length=24)
        try:
            made = lsrl.compile(program, "mamba2")
        except UnsupportedOpError:
            continue
        if made.certificate.exact:
            assert compare(made, sequences=8, length=24).difference is None


# ---------------------------------------------------------------- the gated norm

FINE = 2.0**-60


def late():
    @lsrl.program(max_length=32)
    def late(x: lsrl.Vector(1, low=-64, high=64, step=FINE)):
        return lsrl.delay(x)

    return late


def numbers():
    """Of float32, of many sizes, the greatest that the type allows among them."""
    random = np.random.default_rng(0)
    values = (random.uniform(-1, 1, (4, 20, 1)) * 2.0 ** random.integers(-20, 7, (4, 20, 1))).clip(
        -64, 64
    )
    values[:, ::5] = 64
    return values.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("room", "fits"), [(2.0**40, True), (2.0**49, True), (2.0**52, False)])
def test_the_norm_has_room_for_what_the_certificate_says(room, fits, monkeypatch):
    """Beside a constant of 2^63 for 2^50, and what is more comes out wrong."""
    monkeypatch.setattr(mamba2, "ROOM", room)
    made = lsrl.compile(late(), "mamba2", cache=False)
    assert (made.certificate.verdict == "exact in float32") == fits
    assert fits or "the gated norm reads up to 6.36905e+15" in str(made.certificate)
    found = made.run(numbers())
    assert np.array_equal(found[:, 1:], numbers()[:, :-1]) == fits


def test_real_numbers_are_multiplied_as_float32_does(monkeypatch):
    """What spans 2^132 steps, in gates that SiLU halves; as far as that is so."""

    @lsrl.program(max_length=32)
    def product(
        x: lsrl.Vector(1, low=-64, high=64, step=FINE),
        y: lsrl.Vector(1, low=-64, high=64, step=FINE),
    ):
        return lsrl.bound(x * y, -4096, 4096, step=FINE)

    made = lsrl.compile(product, "mamba2", cache=False)
    gates = [c for site in made.schedule.sites for c in site.channels if c.gate is not None]
    assert len(gates) == 2 and all(channel.linear for channel in gates)
    assert made.certificate.verdict == "exact in float32"
    x, y = numbers(), numbers()[::-1]
    expected = x.astype(np.float32) * y.astype(np.float32)
    np.testing.assert_array_equal(made.run(x, y), expected)
    monkeypatch.setattr(mamba2, "TINY", 2.0**-14)
    made = lsrl.compile(product, "mamba2", cache=False)
    assert "too large for what SiLU halves" in str(made.certificate)
    assert not np.array_equal(made.run(x, y), expected)
