"""Heads against a plain loop over stages, in value and gradients, and against the laws of the method."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan.models.blocks.spectral_norm import SpectralNorm, update_spectral_norms
from gan.models.heads import (
    HEADS,
    Cascade,
    CascadingRejection,
    EnergyCascade,
    Head,
    IndependentHeads,
    LinearHead,
    ProjectionHead,
    TwoQuestions,
)
from gan.models.heads.cascade import cascade_residuals, cascade_scores, cascade_scores_along, rejected_directions
from gan.models.heads.decorrelation import MovingMoments
from gan.models.heads.slicing import MultidimensionalCritic, SlicedCascade, SlicingHead
from gan.models.heads.stages import SLOPE

STAGES = (1, 2, 3, 8)
REJECTIONS = ("sequential", "orthogonal", "none")
F, K, B = 24, 5, 7
FORMS = [
    (name, conditional)
    for name, kind in HEADS.items()
    for conditional in (False, True)
    if kind.labels != ("required", "ignored")[conditional]
]
NORMALISED = [form for form in FORMS if "spectral_norm" in inspect.signature(HEADS[form[0]]).parameters]


def loop_over_stages(
    features: Tensor, weights: Tensor, rejection: str, along: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The method as it is told: scores (B, N) and residuals v_1 … v_{N+1} (B, N + 1, F), one sample at a time.

    Scores are along `weights`; what is rejected are the same vectors, or those of `along`.
    """
    scores, residuals = [], []
    for sample in range(len(features)):
        u = weights if weights.dim() == 2 else weights[sample]
        w = u if along is None else along
        v, vs, ds, basis = features[sample], [features[sample]], [], []
        for i in range(len(w)):
            ds.append(v @ u[i])
            if rejection == "sequential":
                v = v - (v @ w[i]) / (w[i] @ w[i]) * w[i]
            elif rejection == "orthogonal":  # remove the whole span of w_1 … w_i, by modified Gram–Schmidt
                p = w[i]
                for b in basis:
                    p = p - (p @ b) / (b @ b) * b
                basis.append(p)
                v = v - (v @ p) / (p @ p) * p
            vs.append(v)
        scores.append(torch.stack(ds))
        residuals.append(torch.stack(vs))
    return torch.stack(scores), torch.stack(residuals)


def make_head(stages: int, rejection: str, conditional: bool, **options: object) -> CascadingRejection:
    torch.manual_seed(stages)
    head = CascadingRejection(F, stages, K if conditional else None, rejection, **options).double()
    for parameter in head.parameters():  # away from the symmetric start
        nn.init.normal_(parameter)
    update_spectral_norms(head)
    return head


def make_inputs(conditional: bool) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(0)
    features = torch.randn(B, F, dtype=torch.float64, requires_grad=True)
    return features, torch.randint(K, (B,)) if conditional else None


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_equals_the_loop_in_values_and_all_gradients(
    stages: int, rejection: str, conditional: bool, spectral_norm: bool
) -> None:
    head = make_head(stages, rejection, conditional, spectral_norm=spectral_norm)
    features, labels = make_inputs(conditional)
    inputs = [features, *head.parameters()]
    scores = head(features, labels)
    expected, expected_residuals = loop_over_stages(features, head.effective_weight(labels), rejection)
    assert scores.shape == (B, stages)
    torch.testing.assert_close(head.residuals(features, labels), expected_residuals[:, :-1], rtol=1e-9, atol=1e-9)
    assert_equal_with_gradients(scores, expected, inputs)


def assert_equal_with_gradients(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, inputs, upstream, retain_graph=True)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("rejection", REJECTIONS)
def test_rejecting_along_the_weight_alone_equals_the_loop(stages: int, rejection: str) -> None:
    head = make_head(stages, rejection, True, rejection_direction="weight")
    features, labels = make_inputs(conditional=True)
    unit = torch.nn.functional.normalize(head.weight, dim=1)
    expected, residuals = loop_over_stages(features, head.effective_weight(labels), rejection, along=unit)
    torch.testing.assert_close(head.all_residuals(features, labels), residuals, rtol=1e-9, atol=1e-9)
    assert_equal_with_gradients(head(features, labels), expected, [features, *head.parameters()])


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_shared_embeddings_and_biases_equal_the_loop(rejection: str) -> None:
    head = make_head(3, rejection, True, embeddings="shared", bias=True)
    features, labels = make_inputs(conditional=True)
    (embedding,) = head.embeddings
    weights = torch.nn.functional.normalize(head.weight, dim=1) + embedding(labels).unsqueeze(1)
    expected, _ = loop_over_stages(features, weights, rejection)
    assert_equal_with_gradients(head(features, labels), expected + head.bias, [features, *head.parameters()])


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_scaling_a_weight_scales_its_own_score_alone(rejection: str) -> None:
    head = make_head(4, rejection, False, spectral_norm=False)
    features, _ = make_inputs(conditional=False)
    before = head(features).detach()
    with torch.no_grad():
        head.weight[1] *= -3.7
    factors = torch.tensor([1, -3.7, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(head(features), before * factors, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_rotating_features_and_weights_together_changes_nothing(rejection: str) -> None:
    head = make_head(4, rejection, False)
    features, _ = make_inputs(conditional=False)
    before = head(features).detach()
    rotation, _ = torch.linalg.qr(torch.randn(F, F, dtype=torch.float64))
    with torch.no_grad():
        head.weight.copy_(head.weight @ rotation)
    torch.testing.assert_close(head(features @ rotation), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_permuting_later_stages_leaves_earlier_scores_alone(rejection: str) -> None:
    head = make_head(5, rejection, False)
    features, _ = make_inputs(conditional=False)
    before = head(features).detach()
    with torch.no_grad():
        head.weight[2:] = head.weight[[4, 2, 3]]
    after = head(features)
    torch.testing.assert_close(after[:, :2], before[:, :2], rtol=1e-9, atol=1e-9)
    if rejection != "none":
        assert (after[:, 2:] - before[:, [4, 2, 3]]).abs().max() > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 9), features=st.integers(1, 40), data=st.data(), seed=st.integers(0, 2**31),
    rejection=st.sampled_from(REJECTIONS), conditional=st.booleans(),
)  # fmt: skip
def test_any_shape_equals_the_loop(
    batch: int, features: int, data: st.DataObject, seed: int, rejection: str, conditional: bool
) -> None:
    stages = data.draw(st.integers(1, min(features, 12)))
    torch.manual_seed(seed)
    v = torch.randn(batch, features, dtype=torch.float64)
    # well-conditioned weights: a nearly dependent set has no residual to speak of, in a loop or otherwise
    basis, _ = torch.linalg.qr(torch.randn(batch if conditional else 1, features, features, dtype=torch.float64))
    weights = basis[:, :stages] + 0.3 * torch.randn(len(basis), stages, features, dtype=torch.float64) / features
    weights = weights if conditional else weights[0]
    expected, residuals = loop_over_stages(v, weights, rejection)
    torch.testing.assert_close(cascade_scores(v, weights, rejection), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cascade_residuals(v, weights, rejection), residuals, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("conditional", [False, True])
def test_gradient_penalties_can_differentiate_twice(rejection: str, conditional: bool) -> None:
    head = make_head(3, rejection, conditional)
    features, labels = make_inputs(conditional)

    def scores(features: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (features, labels))

    weight = head.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(scores, (features, weight))
    assert torch.autograd.gradgradcheck(scores, (features, weight))


@pytest.mark.parametrize("conditional", [False, True])
def test_a_penalty_on_the_gradient_of_a_frozen_head_equals_the_loops(conditional: bool) -> None:
    head = make_head(3, "sequential", conditional).requires_grad_(False)
    features, labels = make_inputs(conditional)
    ours, theirs = (
        torch.autograd.grad(
            torch.autograd.grad(scores.square().sum(), features, create_graph=True)[0].pow(3).sum(), features
        )[0]
        for scores in (
            head(features, labels),
            loop_over_stages(features, head.effective_weight(labels), "sequential")[0],
        )
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rejection", [*REJECTIONS, "decorrelated"])
@pytest.mark.parametrize(
    ("conditional", "stage"), [(False, "linear"), (True, "linear"), (True, "mlp"), (False, "square")]
)
def test_compiled_heads_equal_eager_ones_without_graph_breaks(rejection: str, conditional: bool, stage: str) -> None:
    torch._dynamo.reset()
    head = make_head(3, rejection, conditional, stage=stage, energy=stage != "linear")
    features, labels = make_inputs(conditional)
    inputs = [features, *head.parameters()]
    eager, eager_of_batch = head(features, labels), head.batch_scores(features, labels)
    head.compile(fullgraph=True, backend="aot_eager")
    assert_equal_with_gradients(head.batch_scores(features, labels), eager_of_batch, inputs)
    assert_equal_with_gradients(head(features, labels), eager, inputs)


@pytest.mark.parametrize("conditional", [False, True])
def test_consecutive_residuals_are_orthogonal_to_what_was_removed(conditional: bool) -> None:
    head = make_head(8, "sequential", conditional)
    features, labels = make_inputs(conditional)
    weight = head.effective_weight(labels).expand(B, -1, -1)
    residuals = head.residuals(features, labels)
    products = (residuals[:, 1:] * weight[:, :-1]).sum(-1)
    assert products.abs().max() < 1e-12
    assert (residuals[:, 2] * weight[:, 0]).sum(-1).abs().max() > 1e-3  # only consecutive ones are


@pytest.mark.parametrize("conditional", [False, True])
def test_in_orthogonal_mode_every_residual_is_orthogonal_to_all_earlier_weights(conditional: bool) -> None:
    head = make_head(8, "orthogonal", conditional)
    features, labels = make_inputs(conditional)
    weight = head.effective_weight(labels).expand(B, -1, -1)
    products = head.residuals(features, labels) @ weight.mT  # (B, N, N): v_i against w_j
    assert products.tril(-1).abs().max() < 1e-10
    directions = rejected_directions(weight, "orthogonal")
    gram = directions @ directions.mT
    assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-10


@pytest.mark.parametrize("rejection", ["sequential", "orthogonal"])
@pytest.mark.parametrize("conditional", [False, True])
def test_energy_is_conserved(rejection: str, conditional: bool) -> None:
    head = make_head(5, rejection, conditional)
    features, labels = make_inputs(conditional)
    weight = head.effective_weight(labels)
    directions = rejected_directions(weight, rejection).expand(B, -1, -1)
    removed = head(features, labels).square() / directions.square().sum(-1)
    left = cascade_residuals(features, weight, rejection)[:, -1].square().sum(-1)
    torch.testing.assert_close(removed.sum(1) + left, features.square().sum(-1))


def test_spectrally_normalised_stages_are_linear_heads_with_unit_weights() -> None:
    head = make_head(4, "sequential", conditional=False)
    torch.testing.assert_close(head.effective_weight().norm(dim=1), torch.ones(4, dtype=torch.float64))
    features, _ = make_inputs(conditional=False)
    jacobians = torch.autograd.functional.jacobian(head, features[:1])[0, :, 0]  # (N, F): one gradient a stage
    assert (jacobians.norm(dim=1) <= 1 + 1e-12).all()  # 1-Lipschitz in v


def test_one_stage_is_the_linear_head() -> None:
    torch.manual_seed(0)
    linear = LinearHead(F, bias=False).double()
    cascade = CascadingRejection(F, stages=1).double()
    cascade.weight.data.copy_(linear.linear.weight.data)
    features, _ = make_inputs(conditional=False)
    torch.testing.assert_close(cascade(features), linear(features))


def test_one_conditional_stage_is_the_projection_head() -> None:
    torch.manual_seed(0)
    projection = ProjectionHead(F, K, bias=False).double()
    cascade = CascadingRejection(F, stages=1, num_classes=K).double()
    cascade.weight.data.copy_(projection.linear.weight.data)
    cascade.embeddings[0].load_state_dict(projection.embedding.state_dict())
    features, labels = make_inputs(conditional=True)
    torch.testing.assert_close(cascade(features, labels), projection(features, labels))


def test_independent_heads_are_linear_heads_with_the_parameters_of_the_cascade() -> None:
    head = IndependentHeads(F, 3).double()
    features, _ = make_inputs(conditional=False)
    torch.testing.assert_close(head(features), features @ head.effective_weight().T)
    cascade = CascadingRejection(F, 3)
    assert {n: p.shape for n, p in head.named_parameters()} == {n: p.shape for n, p in cascade.named_parameters()}


def test_slices_are_orthonormal_and_each_trains_its_own_direction_alone() -> None:
    torch.manual_seed(0)
    head = SlicedCascade(F, 4).double()
    nn.init.normal_(head.weight)
    directions = head.directions()
    torch.testing.assert_close(directions @ directions.T, torch.eye(4, dtype=torch.float64))
    features, _ = make_inputs(conditional=False)
    for stage in range(4):
        (gradient,) = torch.autograd.grad(head.direction_scores(features)[:, stage].sum(), head.weight)
        assert gradient[stage].abs().max() > 1e-6
        others = [other for other in range(4) if other != stage]
        assert gradient[others].abs().max() == 0
        # a direction moves within what is perpendicular to itself and to the earlier ones
        assert (directions[: stage + 1] @ gradient[stage]).abs().max() < 1e-9


def test_scores_and_directions_are_trained_apart() -> None:
    torch.manual_seed(0)
    head = SlicedCascade(F, 3).double()
    features, _ = make_inputs(conditional=False)
    scores, slices = head(features), head.direction_scores(features)
    torch.testing.assert_close(scores, slices)  # scale 1, bias 0: equal values
    used = torch.autograd.grad(scores.sum(), [features, head.weight], allow_unused=True)
    assert used[0].abs().max() > 0
    assert used[1] is None
    used = torch.autograd.grad(slices.sum(), [features, head.weight], allow_unused=True)
    assert used[0] is None
    assert used[1].abs().max() > 0


def test_directions_climb_to_the_difference_of_the_means_and_then_to_that_of_the_spreads() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 4000, F, dtype=torch.float64).unbind()
    real[:, 0] += 3  # the means differ along e_0
    real[:, 1] *= 4  # the spreads along e_1
    head = SlicedCascade(F, 2).double()
    optimizer = torch.optim.Adam([head.weight], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (head.direction_scores(fake).mean() - head.direction_scores(real).mean()).backward()
        optimizer.step()
    first, second = head.directions().detach()
    assert first[0] > 0.99
    assert second[1].abs() > 0.98


@pytest.mark.parametrize("rejection", ["orthogonal", "decorrelated", "none"])
@pytest.mark.parametrize("stage", ["magnitude", "square"])
def test_direction_scores_are_scaled_and_leave_the_scales_alone(rejection: str, stage: str) -> None:
    torch.manual_seed(0)
    head = SlicedCascade(F, 3, rejection=rejection, stage=stage).double()
    nn.init.normal_(head.weight)
    nn.init.normal_(head.bias)
    head.scale.data = torch.tensor([2, -0.5, 3], dtype=torch.float64)
    features, _ = make_inputs(conditional=False)
    slices = features @ head.directions().T
    first, second, third = (nipals(features, slices)[0] if rejection == "decorrelated" else slices).unbind(1)
    power = {"magnitude": 1, "square": 2}[stage]
    expected = torch.stack([2 * first, -0.5 * second.abs() ** power, 3 * third.abs() ** power], 1)
    found = head.direction_scores(features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(found.sum(), head.scale, allow_unused=True) == (None,)


def test_san_is_one_slice() -> None:
    torch.manual_seed(0)
    head = SlicingHead(F).double()
    features, _ = make_inputs(conditional=False)
    unit = head.weight / head.weight.norm()
    torch.testing.assert_close(head(features), head.scale * (features @ unit.T) + head.bias)


@pytest.mark.parametrize("dimensions", [-1, 0])
def test_a_critic_of_no_dimension_is_refused(dimensions: int) -> None:
    with pytest.raises(ValueError, match=f"dimensions: {dimensions} found, 1 or more accepted"):
        MultidimensionalCritic(F, dimensions)


def test_multidimensional_critic_is_a_norm_and_lipschitz() -> None:
    torch.manual_seed(0)
    head = MultidimensionalCritic(F, 5).double()
    for _ in range(200):
        update_spectral_norms(head)
    features, _ = make_inputs(conditional=False)
    weight = head.critic.weight / torch.linalg.matrix_norm(head.critic.weight, 2)
    torch.testing.assert_close(head(features), (features @ weight.T).norm(dim=1, keepdim=True))
    (gradient,) = torch.autograd.grad(head(features).sum(), features)
    assert (gradient.norm(dim=1) <= 1 + 1e-6).all()
    zero = torch.zeros(1, F, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(head(zero).sum(), zero)[0].isfinite().all()


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("weights", ["zero", "parallel", "nearly parallel"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_degenerate_weights_give_finite_scores_and_gradients(rejection: str, weights: str, spectral_norm: bool) -> None:
    head = CascadingRejection(F, 3, rejection=rejection, spectral_norm=spectral_norm)
    with torch.no_grad():
        if weights == "zero":
            head.weight[1] = 0
        else:
            head.weight[1] = -2 * head.weight[0]
            head.weight[1, 0] += 1e-7 * (weights == "nearly parallel")
    features = torch.randn(B, F, requires_grad=True)
    scores = head(features)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert features.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()
    if rejection != "none":
        assert scores[:, 1].abs().max() < 1e-4  # nothing is left along a weight that was already rejected


def plain_head(name: str, conditional: bool, **options: object) -> Head:
    torch.manual_seed(0)
    return HEADS[name](F, **({"num_classes": K} if conditional else {}), **options)


@pytest.mark.parametrize(
    ("name", "conditional", "options"),
    [
        *((*form, {}) for form in FORMS),
        *(("cascading_rejection", False, {"rejection": rejection}) for rejection in ("orthogonal", "none")),
        *(("cascading_rejection", False, {"stage": stage}) for stage in ("magnitude", "square")),
        *(("cascading_rejection", conditional, {"stage": "mlp"}) for conditional in (False, True)),
        ("cascading_rejection", True, {"rejection_direction": "weight"}),
        *(("energy_cascade", True, {"rejection": rejection}) for rejection in ("orthogonal", "decorrelated")),
        *(("sliced_cascade", conditional, {"rejection": "decorrelated"}) for conditional in (False, True)),
        ("sliced_cascade", True, {"rejection": "none"}),
        ("two_questions", True, {"rejection": "decorrelated"}),
    ],
)
def test_autocast_leaves_the_arithmetic_of_every_head_in_float32(name: str, conditional: bool, options: dict) -> None:
    head = plain_head(name, conditional, **options)
    features, labels = torch.randn(B, F), torch.randint(K, (B,)) if conditional else None

    def outputs() -> list[Tensor]:
        found = [head(features, labels), head.batch_scores(features, labels)]
        found += [head.direction_scores(features, labels)] if head.learns_directions else []
        return found + ([head.class_logits(features)] if head.classifies else [])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = outputs()
    assert all(one.dtype == torch.float32 for one in narrow)
    torch.testing.assert_close(narrow, outputs(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "conditional", "options", "factors"),
    [
        *((*form, {}, [3, 3, 1] if form[0] == "energy_cascade" else [3]) for form in NORMALISED),
        ("cascading_rejection", True, {"embeddings": "shared"}, [3]),
        ("cascading_rejection", True, {"rejection_direction": "weight"}, [3]),
        ("cascading_rejection", False, {"stage": "mlp"}, [3, 9, 9]),  # two matrices in a row
        ("energy_cascade", False, {"stage": "mlp"}, [3, 9, 1]),
    ],
)
def test_without_spectral_normalisation_scores_are_those_of_the_raw_weights(
    name: str, conditional: bool, options: dict, factors: list[float]
) -> None:
    """Three times the weights give three times the inner products; what rejection leaves stays as it was."""
    head = plain_head(name, conditional, spectral_norm=False, **options).double()
    features, labels = make_inputs(conditional)
    before = head(features, labels).detach()
    logits = head.class_logits(features).detach() if head.classifies else None
    assert not any(isinstance(module, SpectralNorm) for module in head.modules())
    for parameter in head.parameters():
        if parameter.dim() == 2:
            parameter.data *= 3
    expected = before * torch.tensor(factors, dtype=torch.float64)
    torch.testing.assert_close(head(features, labels), expected, rtol=1e-9, atol=1e-9)
    if logits is not None:
        torch.testing.assert_close(head.class_logits(features), 3 * logits)


@pytest.mark.parametrize("rejection", ["sequential", "orthogonal", "none"])
def test_the_last_stage_of_an_energy_cascade_scores_the_norm_of_what_is_left(rejection: str) -> None:
    torch.manual_seed(0)
    head = EnergyCascade(F, stages=4, rejection=rejection).double()
    nn.init.constant_(head.energy.scale, -1.7)
    nn.init.constant_(head.energy.bias, 0.3)
    features = torch.randn(B, F, dtype=torch.float64)
    expected, residuals = loop_over_stages(features, head.effective_weight(), rejection)
    left = residuals[:, -1]
    scores = head(features)
    torch.testing.assert_close(scores[:, :3], expected)
    torch.testing.assert_close(scores[:, 3], -left.norm(dim=1) + 0.3 * F**0.5)  # |s| ≤ 1
    torch.testing.assert_close(head.all_residuals(features)[:, -1], left)
    if rejection == "sequential":  # nothing is seen twice, nothing is missed
        energy = expected.square().sum(1) + left.square().sum(1)
        torch.testing.assert_close(energy, features.square().sum(1))
    head(torch.zeros(1, F, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_gain_scales_a_linear_heads_score() -> None:
    torch.manual_seed(0)
    plain = LinearHead(F)
    nn.init.constant_(plain.linear.bias, 3.0)
    scaled = LinearHead(F, gain=0.5)
    scaled.load_state_dict(plain.state_dict())
    features = torch.randn(B, F)
    torch.testing.assert_close(scaled(features), plain(features) / 2)
    with pytest.raises(ValueError, match="gain: 0 found, above 0 accepted"):
        LinearHead(F, gain=0)


@pytest.mark.parametrize("stages", [0, F + 1])
def test_impossible_numbers_of_stages_are_refused(stages: int) -> None:
    with pytest.raises(ValueError, match=rf"stages: {stages} found, 1 to {F}"):
        CascadingRejection(F, stages)


# ------------------------------------------------------------------------------------- rejection in the data's metric


def nipals(features: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Deflation as it is told, by sums over samples: scores (B, N) and residuals v_1 … v_{N+1} (B, N + 1, F).

    `raw` are S_i = <v, u_i>, which lose the regression on the earlier scores as v does; for fixed u_i it is the same.
    """
    v, left, scores, residuals = features, raw, [], [features]
    for i in range(raw.shape[1]):
        scores.append(left[:, i])
        centred = left[:, i] - left[:, i].mean()
        v, left = (
            seen - torch.outer(centred, (centred @ (seen - seen.mean(0))) / (centred @ centred)) for seen in (v, left)
        )
        residuals.append(v)
    return torch.stack(scores, 1), torch.stack(residuals, 1)


def anisotropic(count: int = 40) -> Tensor:
    """Features (count, F) whose covariance is far from isotropic and whose mean is not 0."""
    torch.manual_seed(5)
    mixing = torch.randn(F, F, dtype=torch.float64) * torch.logspace(0, -2, F, dtype=torch.float64)
    return (torch.randn(count, F, dtype=torch.float64) @ mixing.T + 2).requires_grad_()


def worst_correlation(scores: Tensor) -> float:
    correlations = torch.corrcoef(scores.T.detach())
    return float((correlations - torch.eye(len(correlations), dtype=scores.dtype)).abs().max())


@pytest.mark.parametrize("stages", [2, 5])
@pytest.mark.parametrize("conditional", [False, True])
def test_decorrelated_scores_equal_deflation_and_are_uncorrelated_over_the_batch(
    stages: int, conditional: bool
) -> None:
    head = make_head(stages, "decorrelated", conditional)
    features = anisotropic()
    labels = torch.randint(K, (len(features),)) if conditional else None
    raw = (features.unsqueeze(1) * head.effective_weight(labels)).sum(-1)
    expected, residuals = nipals(features, raw)
    scores = head.batch_scores(features, labels)
    assert worst_correlation(scores) < 1e-10
    assert worst_correlation(raw) > 0.1
    found = head.all_residuals(features, labels, of_batch=True)
    torch.testing.assert_close(found, residuals, rtol=1e-9, atol=1e-9)
    assert_equal_with_gradients(scores, expected, [features, *head.parameters()])
    if not conditional:  # D_i = <v_i, w_i>, and what is left is uncorrelated with all scores so far
        along = (found[:, :-1] * head.effective_weight()).sum(-1)
        torch.testing.assert_close(along, scores, rtol=1e-9, atol=1e-9)
        left = (found[:, -1] - found[:, -1].mean(0)).T @ (scores - scores.mean(0))
        assert left.abs().max() < 1e-9


def test_in_an_isotropic_batch_decorrelated_is_orthogonal_and_for_two_stages_sequential() -> None:
    features = anisotropic(60).detach()
    centred = features - features.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / 60)).T * 3  # covariance 9 I
    torch.testing.assert_close(white.T @ white / 60, 9 * torch.eye(F, dtype=torch.float64))
    scores = {
        rejection: make_head(4, rejection, False).batch_scores(white)
        for rejection in ("decorrelated", "orthogonal", "sequential")
    }
    torch.testing.assert_close(scores["decorrelated"], scores["orthogonal"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores["decorrelated"][:, :2], scores["sequential"][:, :2], rtol=1e-9, atol=1e-9)
    # a third stage: v_2 has no component along w_1, so that its covariance is not a multiple of I any more
    assert (scores["decorrelated"] - scores["sequential"])[:, 2].abs().max() > 1e-3


@pytest.mark.parametrize("of_batch", [False, True])
@pytest.mark.parametrize("energy", [False, True])
def test_decorrelated_gradients_are_right_twice(of_batch: bool, energy: bool) -> None:
    head = make_head(3, "decorrelated", False, energy=energy)
    features = anisotropic(9)
    head.moments.follow({name.removeprefix("head/"): one for name, one in head.batch_statistics(features).items()})

    def scores(features: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight}, (features, None, of_batch))

    inputs = features.detach().requires_grad_(), head.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(scores, inputs)
    assert torch.autograd.gradgradcheck(scores, inputs, fast_mode=True)


def test_passes_that_are_no_batch_of_the_discriminators_read_a_moving_average() -> None:
    head = make_head(3, "decorrelated", False)
    features = anisotropic(4000).detach()
    torch.testing.assert_close(head(features), features @ head.effective_weight().T)  # before any batch: nothing known
    parts = features.split(500)
    statistics = [head.batch_statistics(part) for part in parts]
    means = {name: torch.stack([one[name] for one in statistics]).mean(0) for name in statistics[0]}
    means["loss"] = torch.tensor(1.0)
    head.follow(means)
    assert means.keys() == {"loss"}  # what is the head's is taken out
    assert head.moments.batches == 1
    assert worst_correlation(head(features)) < 0.01  # of the parts' own covariances, which lack what lies between them
    one_by_one = torch.cat([head(row) for row in features[:3].split(1)])
    torch.testing.assert_close(one_by_one, head(features[:3]))  # a sample's scores do not depend on its batch
    head.follow(head.batch_statistics(3 * features))
    half = head.moments.score_covariance / means_of(head, features)
    torch.testing.assert_close(half, torch.full_like(half, 5.0), rtol=0.02, atol=0)  # (1 + 9) / 2
    for _ in range(200):
        head.follow(head.batch_statistics(features))
    torch.testing.assert_close(head(features), head.batch_scores(features))
    twin = make_head(3, "decorrelated", False)
    twin.load_state_dict(head.state_dict())
    torch.testing.assert_close(twin(features), head(features), rtol=0, atol=0)


def test_by_the_averages_moments_no_score_of_a_batch_depends_on_the_others_though_the_average_follows() -> None:
    head, twin = (make_head(3, "decorrelated", False, moments=moments) for moments in ("average", "batch"))
    features = anisotropic()
    for one in (head, twin):
        one.follow(one.batch_statistics(2 * features))
    torch.testing.assert_close(head.batch_scores(features), head(features), rtol=0, atol=0)
    torch.testing.assert_close(head(features), twin(features), rtol=0, atol=0)
    for found, others in ((head, False), (twin, True)):
        (gradient,) = torch.autograd.grad(found.batch_scores(features)[0].sum(), features)
        assert bool(gradient[1:].any()) is others
    with pytest.raises(ValueError, match="moments: 'average' found with rejection 'orthogonal'; 'batch' accepted"):
        CascadingRejection(F, 3, rejection="orthogonal", moments="average")


@pytest.mark.parametrize(("number", "weight"), [(1, 1.0), (4, 0.25), (10, 0.1), (20, 0.1)])
def test_the_nth_batch_weighs_one_nth_in_the_moving_moments_and_a_tenth_from_the_tenth_on(
    number: int, weight: float
) -> None:
    moments = MovingMoments(2, 3)
    zeros = {name: torch.zeros_like(value) for name, value in moments()._asdict().items()}
    for _ in range(number - 1):
        moments.follow(zeros)
    moments.follow({name: torch.ones_like(value) for name, value in zeros.items()})
    for value in moments():
        torch.testing.assert_close(value, torch.full_like(value, weight))


@pytest.mark.parametrize("stage", ["linear", "mlp"])
def test_by_the_batchs_own_moments_the_energy_is_that_of_what_deflation_leaves(stage: str) -> None:
    head = make_head(3, "decorrelated", False, stage=stage, energy=True)
    features = anisotropic()
    _, residuals = nipals(features, features @ head.effective_weight().T)
    scale, bias = head.energy.scale.clamp(-1, 1), head.energy.bias
    expected = scale * residuals[:, -1].norm(dim=1) + F**0.5 * bias
    torch.testing.assert_close(head.batch_scores(features)[:, -1], expected, rtol=1e-9, atol=1e-9)


def test_by_the_batchs_own_moments_an_mlp_stage_sees_what_deflation_leaves() -> None:
    head = make_head(3, "decorrelated", False, stage="mlp")
    features = anisotropic()
    along, residuals = nipals(features, features @ head.effective_weight().T)
    hidden, output = head.networks.hidden[-1], torch.nn.functional.normalize(head.networks.output[-1], dim=0)
    units = residuals[:, 2] @ hidden.spectral_norm(hidden.weight).T + hidden.bias
    expected = along[:, 2] + (torch.where(units > 0, units, SLOPE * units) - units) @ output
    torch.testing.assert_close(head.batch_scores(features)[:, -1], expected, rtol=1e-9, atol=1e-9)


def means_of(head: CascadingRejection, features: Tensor) -> Tensor:
    return head.batch_statistics(features)["head/score_covariance"]


def test_no_covariance_of_the_features_is_ever_formed() -> None:
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(one))
            return out

    head = EnergyCascade(500, 4, rejection="decorrelated")
    features = torch.randn(20, 500, requires_grad=True)
    with Watch():
        head.batch_scores(features).sum().backward()
        head.follow(head.batch_statistics(features))
        head(features)
    assert max(sizes) <= 4 * 20 * 500 < 500 * 500


@pytest.mark.parametrize("features", ["one", "constant", "equal"])
def test_batches_without_variance_give_finite_scores_and_gradients(features: str) -> None:
    head = CascadingRejection(F, 3, rejection="decorrelated", energy=True)
    rows = torch.randn(1 if features == "one" else B, F)
    rows = torch.ones(B, F) * 3 if features == "constant" else rows[:1].expand(B, F) if features == "equal" else rows
    rows = rows.clone().requires_grad_()
    scores = head.batch_scores(rows)
    scores.sum().backward()
    head.follow(head.batch_statistics(rows))
    for value in (scores, rows.grad, head.weight.grad, head(rows), *head.buffers()):
        assert value.isfinite().all()


def test_a_decorrelated_cascade_rejects_along_what_it_scores() -> None:
    with pytest.raises(ValueError, match="rejection_direction: 'weight' found with rejection 'decorrelated'"):
        CascadingRejection(F, 3, K, "decorrelated", rejection_direction="weight")


# ------------------------------------------------------------------------------------ stages that see more than means


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("stage", ["magnitude", "square"])
def test_later_stages_score_the_magnitude_or_the_square_of_their_coordinate(rejection: str, stage: str) -> None:
    head = make_head(4, rejection, False, stage=stage)
    features, _ = make_inputs(conditional=False)
    along, _ = loop_over_stages(features, head.effective_weight(), rejection)
    later = along[:, 1:].abs() if stage == "magnitude" else along[:, 1:] ** 2
    scale = head.curves.scale.clamp(-1, 1)
    expected = torch.cat([along[:, :1], scale * later + head.curves.bias], 1)
    assert_equal_with_gradients(head(features), expected, [features, head.weight, head.curves.bias])


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("conditional", [False, True])
def test_an_mlp_stage_is_a_network_on_what_is_left_and_rejects_its_linear_part(
    rejection: str, conditional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(3, rejection, conditional, stage="mlp")
    features, labels = make_inputs(conditional)
    weight = head.effective_weight(labels)
    along, seen = loop_over_stages(features, weight, rejection)
    for i, hidden in enumerate(head.networks.hidden, start=1):
        output = torch.nn.functional.normalize(head.networks.output[i - 1], dim=0)
        matrix = hidden.spectral_norm(hidden.weight)
        of_class = 0 if labels is None else head.embeddings[i](labels)
        torch.testing.assert_close(weight[..., i, :], (output @ matrix + of_class).expand_as(weight[..., i, :]))
        units = seen[:, i] @ matrix.T + hidden.bias
        network = torch.where(units > 0, units, SLOPE * units) @ output - hidden.bias @ output
        expected = network + (0 if labels is None else (seen[:, i] * of_class).sum(1))
        torch.testing.assert_close(head(features, labels)[:, i], expected, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr("gan.models.heads.stages.SLOPE", 1.0)  # with the identity for its activation it is linear
    torch.testing.assert_close(head(features, labels), along, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("stage", ["linear", "magnitude", "mlp"])
@pytest.mark.parametrize("energy", [False, True])
def test_unconditional_stages_are_lipschitz_in_the_features(rejection: str, stage: str, energy: bool) -> None:
    head = make_head(4, rejection, False, stage=stage, energy=energy)
    for parameter in head.parameters():
        parameter.data *= 3
    for _ in range(300):
        update_spectral_norms(head)
    features, _ = make_inputs(conditional=False)
    jacobian = torch.autograd.functional.jacobian(lambda v: head(v).sum(0), features)  # (N, B, F)
    assert jacobian.norm(dim=2).max() <= 1 + 1e-6


def test_a_square_is_not_lipschitz_and_a_decorrelated_stage_need_not_be() -> None:
    features = anisotropic(40).detach()
    features[:, 1] = 5 * features[:, 0]
    decorrelated, square = make_head(2, "decorrelated", False), make_head(2, "none", False, stage="square")
    decorrelated.weight.data = torch.eye(2, F, dtype=torch.float64).cumsum(0)  # e_0 and e_0 + e_1: S_2 ∝ S_1
    decorrelated.follow(decorrelated.batch_statistics(features))
    for head in (decorrelated, square):
        jacobian = torch.autograd.functional.jacobian(lambda v, head=head: head(v).sum(0), 100 * features)
        assert jacobian.norm(dim=2).max() > 2


@pytest.mark.parametrize("rejection", ["orthogonal", "none"])
@pytest.mark.parametrize("stage", ["linear", "magnitude", "square"])
def test_the_sliced_cascade_is_the_cascade_along_its_directions(rejection: str, stage: str) -> None:
    torch.manual_seed(0)
    sliced = SlicedCascade(F, 4, rejection=rejection, stage=stage).double()
    nn.init.normal_(sliced.weight)
    features, _ = make_inputs(conditional=False)
    cascade = make_head(4, rejection, False, stage=stage, spectral_norm=False)
    cascade.weight.data.copy_(sliced.directions().detach())
    if cascade.curves is not None:
        nn.init.ones_(cascade.curves.scale)
        nn.init.zeros_(cascade.curves.bias)
    torch.testing.assert_close(sliced(features), cascade(features), rtol=1e-12, atol=1e-12)
    if rejection == "none":
        torch.testing.assert_close(sliced(features), cascade(features), rtol=0, atol=0)


def test_the_energy_cascade_is_the_cascade_with_an_energy() -> None:
    torch.manual_seed(0)
    energy = EnergyCascade(F, 4)
    torch.manual_seed(0)
    cascade = CascadingRejection(F, 4, energy=True)
    features = torch.randn(B, F)
    torch.testing.assert_close(energy(features), cascade(features), rtol=0, atol=0)
    torch.testing.assert_close(energy(features)[:, :3], linear_part(energy)(features), rtol=0, atol=0)


def linear_part(head: EnergyCascade) -> CascadingRejection:
    cascade = CascadingRejection(F, head.stages - 1)
    cascade.weight.data.copy_(head.weight.data)
    return cascade


def test_a_decorrelated_slice_trains_each_direction_by_what_the_earlier_ones_leave() -> None:
    torch.manual_seed(0)
    head = SlicedCascade(F, 4, rejection="decorrelated", stage="linear").double()
    nn.init.normal_(head.weight)
    features = anisotropic()
    slices = head.direction_scores(features)
    torch.testing.assert_close(slices, head.batch_scores(features).detach(), rtol=1e-9, atol=1e-9)
    assert worst_correlation(slices) < 1e-10
    for stage in range(4):
        (gradient,) = torch.autograd.grad(slices[:5, stage].sum(), head.weight, retain_graph=True)
        assert gradient[stage].abs().max() > 1e-6
        assert gradient[[other for other in range(4) if other != stage]].abs().max() == 0


# ------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("rejection", ["orthogonal", "decorrelated", "none"])
def test_with_labels_every_class_has_slices_of_its_own(rejection: str) -> None:
    torch.manual_seed(0)
    head = SlicedCascade(F, 3, K, rejection).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    features, _ = make_inputs(conditional=True)
    labels = torch.tensor([0, 3, 1, 1, 4, 0, 3])  # none of class 2
    directions = head.directions(labels)
    for sample, label in enumerate(labels):
        alone = SlicedCascade(F, 3, rejection=rejection).double()
        alone.weight.data = head.weight.data + torch.stack([table.weight.data[label] for table in head.embeddings])
        torch.testing.assert_close(directions[sample], alone.directions(), rtol=1e-9, atol=1e-9)
        if rejection != "decorrelated":
            alone.scale.data, alone.bias.data = head.scale.data, head.bias.data
            expected = alone(features[sample : sample + 1])[0]
            torch.testing.assert_close(head(features, labels)[sample], expected, rtol=1e-9, atol=1e-9)
    slices = head.direction_scores(features, labels)
    (gradient,) = torch.autograd.grad(slices.sum(), head.embeddings[1].weight)
    assert gradient[labels].abs().sum(1).min() > 0
    assert gradient[2].abs().max() == 0


def test_san_with_labels_is_one_direction_a_class() -> None:
    torch.manual_seed(0)
    head = SlicingHead(F, K).double()
    features, labels = make_inputs(conditional=True)
    vectors = head.weight + head.embeddings[0].weight[labels]
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(features, labels)[:, 0], (features * unit).sum(1))


@pytest.mark.parametrize("rejection", REJECTIONS)
def test_the_energy_with_labels_is_that_of_what_the_vectors_of_the_class_leave(rejection: str) -> None:
    torch.manual_seed(0)
    head = EnergyCascade(F, 3, K, rejection).double()
    features, labels = make_inputs(conditional=True)
    expected, residuals = loop_over_stages(features, head.effective_weight(labels), rejection)
    scores = head(features, labels)
    torch.testing.assert_close(scores[:, :2], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores[:, 2], 0.5 * residuals[:, -1].norm(dim=1), rtol=1e-9, atol=1e-9)


def test_two_questions_are_the_equations() -> None:
    for rejection in ("sequential", "none", "decorrelated"):
        torch.manual_seed(0)
        head = TwoQuestions(F, K, rejection).double()
        features, labels = make_inputs(conditional=True)
        w, e = torch.nn.functional.normalize(head.weight[0], dim=0), head.embedding(labels)
        projected = features - torch.outer(features @ w, w) if rejection == "sequential" else features
        raw = torch.stack([features @ w, (e * projected).sum(1)], 1)
        expected = nipals(features, raw)[0] if rejection == "decorrelated" else raw
        scores = head.batch_scores(features, labels)
        assert_equal_with_gradients(scores, expected, [features, *head.parameters()])


def test_the_second_question_is_blind_to_realism_that_needs_no_class() -> None:
    torch.manual_seed(0)
    features, labels = make_inputs(conditional=True)
    others = (labels + 1) % K
    for rejection in ("sequential", "none"):
        head = TwoQuestions(F, K, rejection).double()
        w = torch.nn.functional.normalize(head.weight, dim=1).detach()
        before, more_real = head(features, labels), head(features + 7 * w, labels)
        torch.testing.assert_close(more_real[:, 0], before[:, 0] + 7)
        changed = (more_real - before)[:, 1].abs().max()
        assert changed < 1e-12 if rejection == "sequential" else changed > 1e-2
        relabelled = head(features, others)
        torch.testing.assert_close(relabelled[:, 0], before[:, 0], rtol=0, atol=0)  # the first asks for no class
        assert (relabelled - before)[:, 1].abs().min() > 1e-6


# ----------------------------------------------------------------------------------------------- what cannot be scored


@pytest.mark.parametrize("name", HEADS)
def test_maps_missing_and_unexpected_labels_are_one_line(name: str) -> None:
    kind = HEADS[name]
    labelled = kind.labels == "required"
    head = kind(F, num_classes=K) if labelled else kind(F)
    features, labels = torch.zeros(B, F), torch.zeros(B, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^features: \(7, 24, 4, 4\) found, \(B, F\) accepted"):
        head(torch.zeros(B, F, 4, 4), labels if labelled else None)
    with pytest.raises(ValueError, match=r"^labels: (none|\(7,\)) found, .* accepted; \w+ ") as error:
        head(features, labels=None if labelled else labels)
    assert "\n" not in str(error.value)
    if kind.labels == "optional":
        with pytest.raises(ValueError, match="labels: none found"):
            kind(F, num_classes=K)(features)


@pytest.mark.parametrize("name", HEADS)
def test_a_cascade_prints_its_stages_and_its_rejection(name: str) -> None:
    kind = HEADS[name]
    head = kind(F, num_classes=K) if kind.labels == "required" else kind(F)
    if isinstance(head, Cascade):
        assert f"stages={head.stages}, rejection={head.rejection}, stage={head.stage}" in repr(head)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: CascadingRejection(F, stage="cubic"),
            "stage: 'cubic' found; accepted: linear, magnitude, square, mlp",
        ),
        (lambda: CascadingRejection(F, rejection="all"), "rejection: 'all' found; accepted: sequential, orthogonal"),
        (lambda: SlicedCascade(F, rejection="sequential"), "rejection: 'sequential' found; accepted: orthogonal, dec"),
        (lambda: SlicedCascade(F, stage="mlp"), "stage: 'mlp' found; accepted: linear, magnitude, square"),
        (lambda: SlicedCascade(F, stage="cubic"), "stage: 'cubic' found; accepted: linear, magnitude, square$"),
        (lambda: EnergyCascade(F, 1), f"stages: 1 found, 2 to {F}"),
    ],
)
def test_options_that_are_not_accepted_are_named(make: Callable[[], Head], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_one_column_a_stage(name: str) -> None:
    kind = HEADS[name]
    head = kind(F, num_classes=K) if kind.labels == "required" else kind(F)
    features, labels = make_inputs(kind.labels == "required")
    assert head(features.float(), labels).shape == (B, head.stages)


def test_of_parallel_weights_nothing_is_removed_twice() -> None:
    """What the second of them adds to the span is 0 but for the ridge, whose direction is the first one's."""
    features, weights = torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(1, 3).expand(2, 3)
    left = cascade_residuals(features, weights, "orthogonal")[:, -1]
    torch.testing.assert_close(left, torch.tensor([[0.0, 4.0, 0.0]]), atol=1e-4, rtol=0)
    found = cascade_scores_along(features, torch.ones(2, 3), weights, "orthogonal")
    torch.testing.assert_close(found, torch.tensor([[7.0, 4.0]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cascading_rejection", "energy_cascade"])
def test_a_stage_that_there_is_none_of_is_refused(name: str) -> None:
    stages = 2 if name == "energy_cascade" else 1
    with pytest.raises(ValueError, match="stage: 'square' found with no stage after the first"):
        HEADS[name](8, stages=stages, stage="square")
