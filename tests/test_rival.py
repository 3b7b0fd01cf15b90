"""The benchmarks' JAX learners do the same work: equal predictions and meta-gradients with equal weights."""

import numpy as np
import pytest
import torch

from benchmarks import cases
from fewshot.episodes import Episode

pytestmark = pytest.mark.slow
jax = pytest.importorskip("jax")
pytest.importorskip("optax")
from benchmarks import rival_jax  # noqa: E402  needs both


@pytest.fixture(autouse=True)
def sixty_four_bits():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sine/oplstm", []),
        ("sine/maml", ["method.grad_clip=0.05"]),  # a bound that is reached
        ("sine/lstm", ["variant=paper"]),
        ("omniglot/oplstm", ["method.passes=2"]),
        ("omniglot/protonet", ["shots=2"]),
        ("omniglot/maml", ["method.inner_steps=2"]),
    ],
)
def test_rival_equals_ours(name, settings):
    """In float64, with every weight away from its default."""
    case = cases.build(name, settings=settings)
    learner = case.learner.double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    tasks = case.datamodule.episode("train", range(2), 5)
    episode = Episode(*(x.double() if x.is_floating_point() else x for x in tasks))
    predict = jax.vmap(rival_jax.predictor(learner), (None, 0, 0, 0))
    gradient = rival_jax.gradient_function(learner)
    quickly_compiled = jax.jit(
        lambda params, *batch: (predict(params, *batch[:3]), gradient(params, *batch)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    predictions, gradients = quickly_compiled(rival_jax.copied(learner), *rival_jax.arrays(learner, episode))
    expected = learner.predict(episode).detach().numpy()
    np.testing.assert_allclose(predictions, expected, rtol=1e-9, atol=1e-10)

    learner.training_step(episode, 0)["loss"].backward()
    learner.on_before_optimizer_step(learner.configure_optimizers())
    for name, parameter in learner.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found = gradients[name.removeprefix("net.")]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_rival_trains():
    case = cases.build("sine/lstm")
    step, compiling = rival_jax.rival(case.learner, case.batches("train"))
    step()
    assert compiling > 0
