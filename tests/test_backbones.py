"""ResNet-12 and the libraries' models, beside plain loops over tasks and stock torch modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot.backbones.base import make_body
from fewshot.backbones.resnet12 import ResNet12
from fewshot.errors import UserError
from fewshot.methods.base import Task
from tests.conftest import CLASSES, CONV, FC, MAML, OPLSTM, OPTIONS, SAP, WARPMAML, episode

RESNET = {"_target_": "fewshot.backbones.resnet12.ResNet12", "widths": [2, 3, 4, 5], "bn": "transductive"}
LIBRARY = "fewshot.backbones.library.LibraryBody"
TORCHVISION = {"_target_": LIBRARY, "library": "torchvision", "model": "resnet18"}
BOTH = pytest.mark.parametrize("backbone", [RESNET, TORCHVISION], ids=["resnet12", "torchvision"])


def stray(module):
    """Every weight away from its default."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def learner(method, backbone):
    made = CLASSES[method](Task((3, 16, 16), 3, False), backbone, **OPTIONS[method]).double()
    stray(made)
    return made


def plain_norm(u, layer, reference):
    """Batch norm of one set (M, C, H, W), by the statistics of its first `reference` examples."""
    own = u[:reference]
    mean = own.mean((0, 2, 3), keepdim=True)
    spread = ((own - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, shift = layer.bn_weight.view(-1, 1, 1), layer.bn_bias.view(-1, 1, 1)
    return (u - mean) / (spread + 1e-5).sqrt() * scale + shift


def plain_resnet12(body, x, reference):
    """Of one task's set (M, C, H, W)."""
    for block in body.blocks:
        u = x
        for number, layer in enumerate(block.convs):
            u = plain_norm(F.conv2d(u, layer.weight, padding=1), layer, reference)
            if number < 2:
                u = torch.where(u > 0, u, 0.1 * u)
        u = u + plain_norm(F.conv2d(x, block.shortcut.weight), block.shortcut, reference)
        x = F.max_pool2d(torch.where(u > 0, u, 0.1 * u), 2)
    return x.mean((2, 3))


@pytest.mark.parametrize("reference", [None, 3])
def test_resnet12_equals_a_loop_over_tasks(reference):
    body = ResNet12((2, 16, 16), [2, 3, 4, 5]).double()
    stray(body)
    x = torch.randn(3, 5, 2, 16, 16).double()
    ours, plain = body(x, reference), torch.stack([plain_resnet12(body, task, reference) for task in x])
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad(y.square().sum(), list(body.parameters())) for y in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_resnet12_has_the_weights_of_the_field():
    """12.4 million with three channels and widths 64, 160, 320, 640."""
    body = make_body((3, 84, 84), RESNET | {"widths": [64, 160, 320, 640]})
    assert (sum(p.numel() for p in body.parameters()), body.features) == (12_424_320, 640)


@BOTH
@pytest.mark.parametrize("method", ["protonet", "oplstm", "lstm"])
def test_every_weight_of_the_body_learns(method, backbone):
    made = learner(method, backbone)
    made.losses(episode(made, shots=1, queries=2))[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.body.parameters())


@pytest.mark.parametrize("method", ["protonet", "oplstm", "maml", "lstm"])
@BOTH
def test_one_query_alone_needs_bn_support(backbone, method):
    if method == "maml" and backbone is TORCHVISION:
        pytest.skip("MAML adapts no library's model")
    made = learner(method, backbone)
    batch = episode(made, tasks=2, shots=1, queries=1)
    alone = batch.query_x[:, :1]
    with pytest.raises(UserError, match=r"set of one example.*backbone\.bn=support"):
        made(batch.support_x, batch.support_y, alone)
    getattr(made, "net", made).body.bn = "support"
    torch.testing.assert_close(made(batch.support_x, batch.support_y, alone), made.predict(batch)[:, :1])


@pytest.mark.parametrize("bn", ["transductive", "stored"])
def test_a_library_model_equals_the_library(tmp_path, bn):
    """In training mode batch norm has a set's statistics, in evaluation mode those of the file."""
    import torchvision

    own = torchvision.models.get_model("resnet18", weights=None)
    stray(own)
    own(torch.randn(9, 3, 32, 32))  # its running statistics move
    torch.save({"state_dict": own.state_dict()}, tmp_path / "own.pth")
    body = make_body((3, 32, 32), TORCHVISION | {"bn": bn, "weights": str(tmp_path / "own.pth")}).double()
    own.fc = nn.Identity()
    own = own.double().train(bn == "transductive")
    x = torch.rand(3, 4, 3, 32, 32).double()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = torch.stack([own((task - mean) / std) for task in x])
    before = copy.deepcopy(body.state_dict())
    torch.testing.assert_close(body.train()(x), expected, rtol=1e-4, atol=1e-4)  # mean and std are float32's
    torch.testing.assert_close(body.eval()(x), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    grey = make_body((1, 32, 32), TORCHVISION | {"bn": bn, "weights": str(tmp_path / "own.pth")}).double()
    torch.testing.assert_close(grey(x[:, :, :1]), body(x[:, :, :1].expand(-1, -1, 3, -1, -1)))


def test_any_model_of_timm():
    pytest.importorskip("timm")
    for model, features in (("resnet10t", 512), ("convnext_atto", 320), ("efficientnet_b0", 1280)):
        body = make_body((3, 32, 32), TORCHVISION | {"library": "timm", "model": model})
        assert body(torch.rand(2, 3, 3, 32, 32)).shape == (2, 3, features)
        assert body.features == features


def test_a_model_gets_images_as_its_library_normalises_them(monkeypatch):
    class Sees(nn.Module):
        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)}
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return x.mean((2, 3))

    monkeypatch.setattr("fewshot.backbones.library.make_model", lambda *_: Sees())
    body = make_body((3, 4, 4), TORCHVISION | {"library": "timm", "bn": "stored"})
    x = torch.rand(1, 2, 3, 4, 4)
    expected = (x.mean((3, 4)) - 0.5) / torch.tensor([0.25, 0.5, 1.0])
    torch.testing.assert_close(body(x), expected)


REFUSED = [
    (RESNET, (3, 15, 16), "images of 16×16 pixels"),
    (RESNET, (7,), "ResNet-12 is for images"),
    ({"_target_": "antigravity.Body"}, (3, 16, 16), "import antigravity first"),
    (TORCHVISION | {"model": "resnet19"}, (3, 16, 16), "torchvision has no such model"),
    (TORCHVISION | {"model": "vit_b_16"}, (3, 32, 32), "takes no inputs of 3×32×32"),
    (TORCHVISION, (4,), "takes no inputs of 4,"),
]


@pytest.mark.parametrize(("backbone", "shape", "why"), REFUSED)
def test_backbones_that_do_not_fit(backbone, shape, why):
    with pytest.raises(UserError, match=why):
        make_body(shape, backbone)


@pytest.mark.parametrize(
    ("method", "options", "backbone", "why"),
    [
        ("warpmaml", WARPMAML, RESNET, "Warp-MAML's warps lie between blocks: choose backbone=conv4"),
        ("sap", SAP, RESNET, "SAP transforms what is between blocks"),
        ("maml", MAML, TORCHVISION, "one copy of its weights for all tasks"),
        (
            "oplstm",
            OPLSTM | {"layers": "all"},
            RESNET,
            "layers=all adapts convolutions: choose backbone=conv4",
        ),
        ("oplstm", OPLSTM | {"preactivation": True}, RESNET, "preactivation=true needs adapted layers"),
        ("warp_oplstm", OPLSTM, CONV, "warps lie between adapted layers, .* conv4 with method.layers=all"),
        ("warp_oplstm", OPLSTM | {"preactivation": True}, FC, "and method.preactivation=false"),
    ],
)
def test_a_learner_says_which_backbones_it_takes(method, options, backbone, why):
    with pytest.raises(UserError, match=why):
        CLASSES[method](Task((3, 16, 16), 3, False), backbone, **options)


def test_anil_adapts_the_head_of_any_model():
    made = CLASSES["maml"](Task((3, 32, 32), 3, False), TORCHVISION, **MAML | {"adapt_head_only": True})
    made.losses(episode(made.double(), shots=1, queries=1))[0].sum().backward()
    assert all(p.grad is not None for p in made.parameters())
