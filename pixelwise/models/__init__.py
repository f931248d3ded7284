"""Every network, by name. This namespace is the registry: a line here is all that a new model needs."""

from .fcn import FCNHead as FCNHead
from .pspnet import PSPNet as PSPNet
from .pspnet import PyramidPooling as PyramidPooling
from .pspnet import pspnet as pspnet
from .pspnet import pspnet_resnet50 as pspnet_resnet50
from .pspnet import pspnet_resnet101 as pspnet_resnet101
