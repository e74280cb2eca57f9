"""Attention against plain loops and explicit weights, and against the laws of each form."""

import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from gan.models.attention import ATTENTION, Attention
from gan.models.attention.block import Layout
from gan.models.attention.dot_product import PADDED_FROM_KEYS, DotProduct, aligned
from gan.models.attention.mixture import PARTS
from gan.models.blocks.spectral_norm import SpectralNorm, update_spectral_norms

C, H, W, B = 32, 4, 6, 3  # C/8 = 4 query channels, C/2 = 16 value channels
LINEAR = ("elu", "efficient", "taylor")
EQUIVARIANT = ("dot_product", *LINEAR)
FIXED = [("random", {"learned": False}), ("factorized_random", {"learned": False})]
MIXTURES = [
    ("mixture", {}),
    ("mixture", {"parts": ["dot_product", "dense", "factorized_random"]}),
    ("mixture", {"parts": ["taylor", "dot_product", "random"], "combine": "outputs"}),
]
CASES = [
    *((name, {}) for name in ATTENTION),
    ("dot_product", {"scaled": False}),
    ("dense", {"hidden": 5}),
    ("factorized_dense", {"rows": 3}),
    ("factorized_random", {"rank": 3}),
    *FIXED,
    *MIXTURES[1:],
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
every_name = pytest.mark.parametrize("name", ATTENTION)


def make(name: str, dtype: torch.dtype = torch.float64, gamma: float = 0.7, **options: object) -> Attention:
    """A block away from its start: an open gate, biases and mixing weights not zero."""
    torch.manual_seed(len(name))
    attention = ATTENTION[name](C, H, W, **options).to(dtype)
    nn.init.constant_(attention.gamma, gamma)
    for parameter_name, parameter in attention.named_parameters():
        if parameter_name.endswith(("bias", "mixing")):
            nn.init.normal_(parameter)
    update_spectral_norms(attention)
    return attention


def make_maps(dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(B, C, H, W, dtype=dtype).requires_grad_(requires_grad)


# The reference: one sample, one head, one position at a time, from the state dict alone.


def loop_block(attention: Attention, name: str, options: dict, maps: Tensor, heads: int, pooled: bool) -> Tensor:
    state = dict(attention.state_dict())
    tokens = maps.flatten(2).mT
    values = loop_pool(tokens @ state["value.weight"].T, pooled)
    form = {key.removeprefix("form."): value for key, value in state.items()}
    samples = []
    for x, v in zip(tokens, values, strict=True):
        weights = loop_weights(form, name, options, x, heads, pooled)
        width = v.shape[1] // heads
        attended = torch.zeros(len(x), v.shape[1], dtype=maps.dtype)
        for head, j in itertools.product(range(heads), range(len(v))):
            columns = slice(head * width, (head + 1) * width)
            attended[:, columns] += weights[head, :, j, None] * v[j, columns]
        samples.append(attended @ state["out.weight"].T)
    return maps + state["gamma"] * torch.stack(samples).mT.unflatten(2, (H, W))


def loop_pool(tokens: Tensor, pooled: bool) -> Tensor:
    """The largest of each 2×2 cell, of `(B, n, D)`."""
    if not pooled:
        return tokens
    grid = tokens.unflatten(1, (H, W))
    cells = [grid[:, y : y + 2, x : x + 2].amax((1, 2)) for y in range(0, H, 2) for x in range(0, W, 2)]
    return torch.stack(cells, dim=1)


def loop_weights(form: dict[str, Tensor], name: str, options: dict, x: Tensor, heads: int, pooled: bool) -> Tensor:
    """A of one sample, `(h, n, m)`."""
    if name == "mixture":
        parts = options.get("parts", ["dot_product", "random"])
        shares = [math.exp(a) for a in form["mixing"].tolist()]
        below = [{k.removeprefix(f"parts.{part}."): v for k, v in form.items()} for part in parts]
        of_parts = loop_weights if options.get("combine") == "outputs" else loop_logits
        mixed = sum(
            share / sum(shares) * of_parts(state, part, {}, x, heads, pooled)
            for share, part, state in zip(shares, parts, below, strict=True)
        )
        return mixed if of_parts is loop_weights else normalise(mixed.exp())
    if name in LINEAR:
        return loop_linear(form, name, x, heads, pooled)
    return normalise(loop_logits(form, name, options, x, heads, pooled).exp())


def normalise(similarities: Tensor) -> Tensor:
    return similarities / similarities.sum(-1, keepdim=True)


def loop_queries_keys(form: dict[str, Tensor], x: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    return x @ form["query.weight"].T, loop_pool((x @ form["key.weight"].T).unsqueeze(0), pooled)[0]


def loop_linear(form: dict[str, Tensor], name: str, x: Tensor, heads: int, pooled: bool) -> Tensor:
    queries, keys = loop_queries_keys(form, x, pooled)
    width = queries.shape[1] // heads
    weights = torch.zeros(heads, len(queries), len(keys), dtype=x.dtype)
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        for i, j in itertools.product(range(len(queries)), range(len(keys))):
            q, k = queries[i, columns], keys[j, columns]
            if name == "elu":
                weights[head, i, j] = sum((F.elu(q) + 1) * (F.elu(k) + 1))
            elif name == "taylor":
                weights[head, i, j] = 1 + (q @ k) / ((q @ q + 1e-8) * (k @ k + 1e-8)).sqrt()
            else:
                weights[head, i, j] = (q.exp() / q.exp().sum()) @ (k.exp() / keys[:, columns].exp().sum(0))
    return weights if name == "efficient" else normalise(weights)


def loop_logits(form: dict[str, Tensor], name: str, options: dict, x: Tensor, heads: int, pooled: bool) -> Tensor:
    keys = len(x) // 4 if pooled else len(x)
    if name == "random":
        return form["matrix"]
    logits = torch.zeros(heads, len(x), keys, dtype=x.dtype)
    for head, i, j in itertools.product(range(heads), range(len(x)), range(keys)):
        if name == "factorized_random":
            logits[head, i, j] = form["left"][head, i] @ form["right"][head, j]
        elif name == "dense":
            logits[head, i, j] = loop_score(form, "scores", x[i], heads, head, j)
        elif name == "factorized_dense":
            rows = options.get("rows") or (H // 2 if pooled else H)
            row, column = divmod(j, keys // rows)
            first = loop_score(form, "row_scores", x[i], heads, head, row)
            logits[head, i, j] = first * loop_score(form, "column_scores", x[i], heads, head, column)
        else:
            q, k = loop_queries_keys(form, x, pooled)
            width = q.shape[1] // heads
            columns = slice(head * width, (head + 1) * width)
            scale = width**-0.5 if options.get("scaled", True) else 1.0
            logits[head, i, j] = scale * (q[i, columns] @ k[j, columns])
    return logits


def loop_score(form: dict[str, Tensor], scores: str, x: Tensor, heads: int, head: int, column: int) -> Tensor:
    w1, b1, w2, b2 = (form[f"{scores}.{layer}.{kind}"] for layer in ("first", "second") for kind in ("weight", "bias"))
    row = head * (len(w2) // heads) + column
    return w2[row] @ (w1 @ x + b1).clamp(min=0) + b2[row]


@every_case
@pytest.mark.parametrize(("heads", "pooled"), [(1, False), (2, True)])
def test_equals_a_loop_over_positions(name: str, options: dict, heads: int, pooled: bool) -> None:
    attention = make(name, heads=heads, pooled=pooled, **options)
    maps = make_maps()[:2]
    with torch.no_grad():
        torch.testing.assert_close(
            attention(maps), loop_block(attention, name, options, maps, heads, pooled), rtol=1e-10, atol=1e-10
        )


@every_case
@pytest.mark.parametrize(("heads", "pooled"), [(1, False), (2, True)])
def test_equals_its_explicit_weights_whose_rows_sum_to_one(name: str, options: dict, heads: int, pooled: bool) -> None:
    form = make(name, heads=heads, pooled=pooled, **options).form
    tokens = make_maps().flatten(2).mT
    values = torch.randn(B, heads, form.layout.key_positions, 4, dtype=torch.float64)
    weights = form.weights(tokens)
    assert weights.shape[-3:] == (heads, H * W, form.layout.key_positions)
    assert weights.min() >= 0
    torch.testing.assert_close(form(tokens, values), weights @ values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_dot_product_weights_equal_those_of_torch_multi_head_attention(scaled: bool) -> None:
    torch.manual_seed(0)
    form = DotProduct(Layout(64, H, W, heads=2), scaled=scaled).double()  # 2 heads of 4 channels
    tokens = torch.randn(B, H * W, 64, dtype=torch.float64)
    queries, keys = form.query(tokens), form.key(tokens)
    reference = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
    _, weights = reference(queries if scaled else 2 * queries, keys, keys, average_attn_weights=False)
    torch.testing.assert_close(form.weights(tokens), weights, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_permuting_positions_permutes_the_result(name: str) -> None:
    attention, maps = make(name, heads=2), make_maps()
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(1))
    permuted = maps.flatten(2)[..., order].unflatten(2, (H, W))
    expected = attention(maps).flatten(2)[..., order].unflatten(2, (H, W))
    torch.testing.assert_close(attention(permuted), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(ATTENTION) - set(EQUIVARIANT)))
def test_synthesizers_know_where_a_position_is(name: str) -> None:
    attention, maps = make(name), make_maps()
    flipped = attention(maps.flip(3)).flip(3)
    assert (flipped - attention(maps)).abs().max() > 1e-3


@every_case
def test_starts_as_the_identity_with_a_gradient_at_its_gate(name: str, options: dict) -> None:
    torch.manual_seed(0)
    attention = ATTENTION[name](C, H, W, **options)
    maps = make_maps(torch.float32)
    assert torch.equal(attention(maps), maps)
    attention(maps).square().sum().backward()
    assert attention.gamma.grad is not None and attention.gamma.grad != 0


@every_name
@pytest.mark.parametrize(("channels", "height", "width"), [(8, 2, 8), (100, 4, 2), (4, 1, 3), (2, 1, 1)])
def test_any_size(name: str, channels: int, height: int, width: int) -> None:
    with torch.device("meta"):
        attention = ATTENTION[name](channels, height, width)
        assert attention(torch.empty(2, channels, height, width)).shape == (2, channels, height, width)


@every_case
@pytest.mark.parametrize("pooled", [False, True])
def test_first_and_second_derivatives(name: str, options: dict, pooled: bool) -> None:
    attention = make(name, heads=2, pooled=pooled, **options)
    learned = {key: value for key, value in attention.named_parameters() if value.requires_grad}
    maps = make_maps(requires_grad=True)

    def run(images: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(attention, dict(zip(learned, values, strict=True)), (images,))

    assert gradcheck(run, (maps, *learned.values()), fast_mode=True)
    assert gradgradcheck(run, (maps, *learned.values()), fast_mode=True)


@pytest.mark.parametrize(("inner", "outer"), [(12, 48), (8, 32), (5, 7)])
def test_channels_that_are_filled_up_for_a_gpu_change_nothing(inner: int, outer: int) -> None:
    random = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 1, 20, inner, generator=random, dtype=torch.float64)
    keys = torch.randn(2, 1, 9, inner, generator=random, dtype=torch.float64)
    values = torch.randn(2, 1, 9, outer, generator=random, dtype=torch.float64)
    expected = (0.3 * queries @ keys.mT).softmax(-1) @ values
    torch.testing.assert_close(aligned(queries, keys, values, 0.3), expected)


@pytest.mark.parametrize("positions", [PADDED_FROM_KEYS, PADDED_FROM_KEYS // 4])
def test_fused_kernel_has_the_derivatives_of_the_explicit_softmax(positions: int) -> None:
    torch.manual_seed(0)
    form = DotProduct(Layout(C, 16, positions // 16)).double()
    tokens = torch.randn(2, positions, C, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 1, positions, 8, dtype=torch.float64, requires_grad=True)
    inputs = (tokens, values, form.query.weight, form.key.weight)
    results = []
    for attend in (form, lambda t, v: form.weights(t) @ v):
        attended = attend(tokens, values)
        plain = torch.autograd.grad(attended.square().sum(), inputs, retain_graph=True)
        again = torch.autograd.grad(attended.square().sum(), inputs)  # over a graph that was retained
        assert all(map(torch.equal, plain, again))
        gradients = torch.autograd.grad(attend(tokens, values).square().sum(), tokens, create_graph=True)
        penalty = gradients[0].square().sum()
        results.append((attended, *plain, *gradients, *torch.autograd.grad(penalty, inputs)))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fused, explicit, rtol=1e-8, atol=1e-8)


def test_fused_kernel_trains_where_some_inputs_are_frozen() -> None:
    attention = make("dot_product").requires_grad_(False)
    maps = make_maps(requires_grad=True)
    gradient = torch.autograd.grad(attention(maps).square().sum(), maps, create_graph=True)[0]
    assert torch.autograd.grad(gradient.square().sum(), maps)[0].isfinite().all()
    attention.form.key.requires_grad_(True)
    attention(make_maps()).square().sum().backward()
    assert attention.form.key.weight.grad is not None and attention.form.query.weight.grad is None


@every_case
def test_bfloat16_autocast_keeps_normalisers_in_float32(name: str, options: dict) -> None:
    attention, maps = make(name, torch.float32, **options), make_maps(torch.float32, requires_grad=True)
    expected = attention(maps)
    expected_gradient = torch.autograd.grad(expected.square().sum(), maps)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(maps)
        weights = attention.form.weights(maps.flatten(2).mT)
        gradient = torch.autograd.grad(found.square().sum(), maps, create_graph=True)[0]
        penalty = gradient.square().sum()
    assert found.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-5, atol=0)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()
    assert torch.autograd.grad(penalty, maps)[0].isfinite().all()


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in ATTENTION), MIXTURES[-1]])
def test_compiles_whole(name: str, options: dict) -> None:
    torch.compiler.reset()
    attention, maps = make(name, torch.float32, **options), make_maps(torch.float32, requires_grad=True)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    for found, expected in zip(
        *(_value_and_gradients(call, attention, maps) for call in (compiled, attention)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _value_and_gradients(call: nn.Module, attention: Attention, maps: Tensor) -> tuple[Tensor, ...]:
    result = call(maps)
    learned = [parameter for parameter in attention.parameters() if parameter.requires_grad]
    return result, *torch.autograd.grad(result.square().sum(), [maps, *learned])


@every_name
@pytest.mark.parametrize("pooled", [False, True])
def test_memory_format_is_kept_and_changes_nothing(name: str, pooled: bool) -> None:
    attention, maps = make(name, pooled=pooled), make_maps()
    expected = attention(maps)
    found = attention(maps.contiguous(memory_format=torch.channels_last))
    assert expected.is_contiguous() and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), FIXED)
def test_fixed_weights_are_saved_but_not_trained(name: str, options: dict) -> None:
    attention, learned = make(name, **options), make(name)
    assert not list(attention.form.parameters())
    assert attention.state_dict().keys() == learned.state_dict().keys()
    learned(make_maps()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learned.parameters())


@pytest.mark.parametrize("name", ["random", "factorized_random"])
def test_random_logits_have_unit_variance(name: str) -> None:
    torch.manual_seed(0)
    logits = ATTENTION[name](C, 16, 16).form.logits(torch.empty(1, 256, C))
    assert abs(logits.mean()) < 0.1 and 0.8 < logits.var() < 1.25


@pytest.mark.parametrize(
    ("name", "combine"),
    [(name, way) for name in PARTS for way in ("logits", "outputs") if way == "outputs" or name not in LINEAR],
)
def test_mixture_of_one_equals_it(name: str, combine: str) -> None:
    other = "dense" if name == "random" else "random"
    mixture = make("mixture", parts=[other, name], combine=combine, heads=2)
    with torch.no_grad():
        mixture.form.mixing.copy_(torch.tensor([-1e4, 1e4]))
    part = make(name, heads=2)
    part.form.load_state_dict(mixture.form.parts[name].state_dict())
    tokens, values = make_maps().flatten(2).mT, torch.randn(B, 2, H * W, 4, dtype=torch.float64)
    torch.testing.assert_close(mixture.form(tokens, values), part.form(tokens, values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pooled", [False, True])
def test_blocks_of_sagan_and_biggan_have_their_parameters(pooled: bool) -> None:
    attention = ATTENTION["dot_product"](256, 32, 32, pooled=pooled, spectral_norm=True, scaled=False)
    # Pointwise, without biases: queries and keys to C/8, values to C/2 and back to C, one gate.
    assert sum(parameter.numel() for parameter in attention.parameters()) == 2 * 256 * 32 + 2 * 256 * 128 + 1 == 81_921


@every_name
def test_spectral_norm_divides_every_projection(name: str) -> None:
    attention = make(name, spectral_norm=True)
    for _ in range(1000):
        update_spectral_norms(attention)
    plain = make(name)
    state = plain.state_dict()
    norms = [module for module in attention.modules() if isinstance(module, SpectralNorm)]
    projections = [key for key, value in state.items() if key.endswith("weight")]
    assert len(norms) == len(projections) >= 2
    for key, value in attention.state_dict().items():
        if key in state:
            sigma = torch.linalg.matrix_norm(value, 2) if key in projections else 1.0
            state[key] = value / sigma
    plain.load_state_dict(state)
    torch.testing.assert_close(attention(make_maps()), plain(make_maps()), rtol=1e-6, atol=1e-6)


def test_taylor_is_finite_where_keys_oppose_queries_and_where_nothing_is() -> None:
    form = ATTENTION["taylor"](C, 16, 16).form
    queries, values = torch.ones(1, 1, 256, 2), torch.randn(1, 1, 256, 8)
    opposed = form.attend(queries, -queries, values)
    assert opposed.abs().max() <= values.abs().max()
    nothing = torch.zeros(1, 1, 256, 2, requires_grad=True)
    attended = form.attend(nothing, nothing.detach(), values)
    torch.testing.assert_close(attended, values.mean(-2, keepdim=True).expand_as(attended))
    first = torch.autograd.grad(attended.square().sum(), nothing, create_graph=True)[0]
    assert first.isfinite().all()
    assert torch.autograd.grad(first.square().sum(), nothing)[0].isfinite().all()


def test_elu_holds_where_features_are_far_below_zero() -> None:
    form, values = ATTENTION["elu"](C, 2, 2).form, torch.randn(1, 1, 4, 8)
    low = torch.full((1, 1, 4, 2), -9.0)  # elu(−9) + 1 = 1.2e-4
    torch.testing.assert_close(form.attend(low, low, values), values.mean(-2, keepdim=True).expand(1, 1, 4, 8))
    lowest = torch.full((1, 1, 4, 2), -1e4, requires_grad=True)
    attended = form.attend(lowest, lowest.detach(), values)
    first = torch.autograd.grad(attended.square().sum(), lowest, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), lowest)[0]
    assert all(tensor.isfinite().all() for tensor in (attended, first, second))


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("taylor", (16, 4, 4), {"heads": 3}, "heads: 3 found, a divisor of 2"),
        ("elu", (16, 4, 4), {"heads": 0}, "heads: 0 found"),
        (
            "dot_product",
            (16, 3, 4),
            {"pooled": True},
            "pooled: true found on maps of 3×4, accepted where both",
        ),
        ("factorized_random", (16, 4, 4), {"rank": 0}, "rank: 0 found, 1 or more"),
        ("factorized_dense", (16, 4, 4), {"rows": 3}, "rows: 3 found, a divisor of 16"),
        ("dense", (16, 4, 4), {"hidden": 0}, "hidden: 0 found, 1 or more"),
        ("mixture", (16, 4, 4), {"parts": ["dense"]}, "parts: dense found, two or more different ones"),
        ("mixture", (16, 4, 4), {"parts": ["dense", "dense"]}, "parts: dense, dense found, two or more"),
        ("mixture", (16, 4, 4), {"parts": ["dense", "randon"]}, "parts: no 'randon'; did you mean 'random'"),
        ("mixture", (16, 4, 4), {"parts": ["dense", "taylor"]}, "parts: 'taylor' has no logits to mix"),
        ("mixture", (16, 4, 4), {"combine": "sum"}, "combine: 'sum' found, 'logits' or 'outputs' accepted"),
    ],
)
def test_bad_options_are_refused_in_one_line(name: str, size: tuple[int, ...], options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ATTENTION[name](*size, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="attention is built for one size"):
        make("taylor")(torch.zeros(B, C, W, H, dtype=torch.float64))


@every_name
def test_registry_entries_state_their_options(name: str) -> None:
    parameters = inspect.signature(ATTENTION[name]).parameters
    assert list(parameters)[:3] == ["channels", "height", "width"]
    assert {"heads", "pooled", "spectral_norm"} <= set(parameters)
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())


def test_every_form_can_be_part_of_a_mixture() -> None:
    assert {*PARTS, "mixture"} == set(ATTENTION)
