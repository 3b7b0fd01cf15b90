"""Few-shot meta-learning: learners, backbones, episodes. What a notebook needs."""

from fewshot.backbones.base import Body, make_body
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.images import open_or_prepare
from fewshot.data.sine import SineSource
from fewshot.episodes import Episode, Task
from fewshot.errors import UserError
from fewshot.methods import (
    MAML,
    OPLSTM,
    SAP,
    DeltaNet,
    Logistic,
    MetaLearner,
    MetaSGD,
    NearestCentroid,
    PlainLSTM,
    ProtoNet,
    Reptile,
    Ridge,
    WarpMAML,
    WarpOPLSTM,
)
from fewshot.methods.base import Lr, query_pass
