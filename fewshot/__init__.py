"""Few-shot meta-learning: learners, backbones, episodes. What a notebook needs."""

from fewshot.backbones import make_body
from fewshot.backbones.base import Body
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.images import open_or_prepare
from fewshot.data.sine import SineSource
from fewshot.episodes import Episode, Task
from fewshot.errors import UserError
from fewshot.methods import MAML, OPLSTM, SAP, MetaLearner, PlainLSTM, ProtoNet, WarpMAML
from fewshot.methods.base import Lr, query_pass

__all__ = [
    "MAML",
    "OPLSTM",
    "SAP",
    "Body",
    "Episode",
    "EpisodicDataModule",
    "ImageSource",
    "Lr",
    "MetaLearner",
    "PlainLSTM",
    "ProtoNet",
    "SineSource",
    "Task",
    "UserError",
    "WarpMAML",
    "make_body",
    "open_or_prepare",
    "query_pass",
]
