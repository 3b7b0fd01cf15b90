"""Few-shot meta-learning: learners, backbones, episodes. What a notebook needs, each imported when first asked for."""

import importlib
from typing import Any

_FROM = {
    "episodes": ("Episode", "Task"),
    "errors": ("UserError",),
    "backbones": ("make_body",),
    "backbones.base": ("Body",),
    "data.datamodule": ("EpisodicDataModule",),
    "data.image_source": ("ImageSource",),
    "data.images": ("open_or_prepare",),
    "data.sine": ("SineSource",),
    "methods": ("learner_class",),
    "methods.base": ("Lr", "MetaLearner", "query_pass"),
    "methods.lstm": ("PlainLSTM",),
    "methods.maml": ("MAML",),
    "methods.oplstm": ("OPLSTM",),
    "methods.protonet": ("ProtoNet",),
    "methods.sap": ("SAP",),
    "methods.warpmaml": ("WarpMAML",),
}
_WHERE = {name: module for module, names in _FROM.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
