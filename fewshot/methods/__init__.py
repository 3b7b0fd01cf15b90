"""Meta-learners, one a file."""

from fewshot.methods.base import MetaLearner
from fewshot.methods.deltanet import DeltaNet
from fewshot.methods.logistic import Logistic
from fewshot.methods.lstm import PlainLSTM
from fewshot.methods.maml import MAML
from fewshot.methods.metasgd import MetaSGD
from fewshot.methods.nearest_centroid import NearestCentroid
from fewshot.methods.oplstm import OPLSTM
from fewshot.methods.protonet import ProtoNet
from fewshot.methods.reptile import Reptile
from fewshot.methods.ridge import Ridge
from fewshot.methods.sap import SAP
from fewshot.methods.warp_oplstm import WarpOPLSTM
from fewshot.methods.warpmaml import WarpMAML
