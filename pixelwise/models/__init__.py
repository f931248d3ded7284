"""Every network, by name. This namespace is the registry: a line here is all that a new model needs."""

from .crf_rnn import CRFRNN as CRFRNN, crf_rnn as crf_rnn
from .deep_parsing_network import (
    DeepParsingNetwork as DeepParsingNetwork,
    deep_parsing_network as deep_parsing_network,
)
from .deeplabv1 import (
    DeepLabV1 as DeepLabV1,
    DeepLabV1MSc as DeepLabV1MSc,
    deeplabv1_largefov as deeplabv1_largefov,
    deeplabv1_msc as deeplabv1_msc,
)
from .deeplabv2 import (
    ASPPSum as ASPPSum,
    DeepLabV2 as DeepLabV2,
    deeplabv2 as deeplabv2,
    deeplabv2_resnet101 as deeplabv2_resnet101,
    deeplabv2_vgg16 as deeplabv2_vgg16,
)
from .deeplabv3 import (
    ASPP as ASPP,
    DeepLabV3 as DeepLabV3,
    TorchvisionDeepLabV3 as TorchvisionDeepLabV3,
    deeplabv3 as deeplabv3,
    deeplabv3_resnet50 as deeplabv3_resnet50,
    deeplabv3_resnet101 as deeplabv3_resnet101,
    deeplabv3_torchvision as deeplabv3_torchvision,
    from_torchvision_deeplabv3 as from_torchvision_deeplabv3,
)
from .deeplabv3plus import (
    DeepLabV3Plus as DeepLabV3Plus,
    deeplabv3plus as deeplabv3plus,
    deeplabv3plus_resnet101 as deeplabv3plus_resnet101,
    deeplabv3plus_xception65 as deeplabv3plus_xception65,
    deeplabv3plus_xception71 as deeplabv3plus_xception71,
)
from .denseaspp import DenseASPP as DenseASPP, denseaspp_densenet161 as denseaspp_densenet161
from .dilation import (
    Dilation as Dilation,
    DilationWithTransposed as DilationWithTransposed,
    dilation8 as dilation8,
    dilation10 as dilation10,
)
from .duc_hdc import (
    DUC as DUC,
    DUCHDC as DUCHDC,
    duc_hdc as duc_hdc,
    duc_hdc_resnet101 as duc_hdc_resnet101,
)
from .espnetv2 import (
    ESPNetv2 as ESPNetv2,
    espnetv2_s_0_5 as espnetv2_s_0_5,
    espnetv2_s_1_0 as espnetv2_s_1_0,
    espnetv2_s_1_5 as espnetv2_s_1_5,
    espnetv2_s_1_25 as espnetv2_s_1_25,
    espnetv2_s_2_0 as espnetv2_s_2_0,
    from_edgenets as from_edgenets,
)
from .fast_rcnn import BoxHead as BoxHead
from .faster_rcnn import (
    FasterRCNN as FasterRCNN,
    RegionProposalNetwork as RegionProposalNetwork,
    faster_rcnn as faster_rcnn,
    faster_rcnn_resnet50_fpn as faster_rcnn_resnet50_fpn,
    faster_rcnn_resnet50_fpn_v2 as faster_rcnn_resnet50_fpn_v2,
    from_torchvision_faster_rcnn as from_torchvision_faster_rcnn,
)
from .fcn import (
    DilatedFCN as DilatedFCN,
    FCN8s as FCN8s,
    FCN16s as FCN16s,
    FCN32s as FCN32s,
    FCNHead as FCNHead,
    fcn as fcn,
    fcn8s_vgg16 as fcn8s_vgg16,
    fcn16s_vgg16 as fcn16s_vgg16,
    fcn32s_vgg16 as fcn32s_vgg16,
    fcn_resnet50 as fcn_resnet50,
    fcn_resnet101 as fcn_resnet101,
    from_caffe_fcn as from_caffe_fcn,
    from_torchvision_fcn as from_torchvision_fcn,
)
from .feature_pyramid import FeaturePyramid as FeaturePyramid
from .fpn import FPN as FPN, fpn as fpn
from .hourglass import (
    StackedHourglass as StackedHourglass,
    hourglass as hourglass,
    hourglass_2 as hourglass_2,
    hourglass_8 as hourglass_8,
)
from .hrnet_pose import (
    HRNetPose as HRNetPose,
    from_hrnet_pose as from_hrnet_pose,
    hrnet_pose as hrnet_pose,
    hrnet_pose_w32 as hrnet_pose_w32,
    hrnet_pose_w48 as hrnet_pose_w48,
)
from .linknet import LinkNet as LinkNet, linknet as linknet
from .mask_rcnn import (
    MaskHead as MaskHead,
    MaskRCNN as MaskRCNN,
    MaskRegionLogits as MaskRegionLogits,
    from_torchvision_mask_rcnn as from_torchvision_mask_rcnn,
    mask_rcnn as mask_rcnn,
    mask_rcnn_resnet50_fpn as mask_rcnn_resnet50_fpn,
    mask_rcnn_resnet50_fpn_v2 as mask_rcnn_resnet50_fpn_v2,
    mask_rcnn_resnet101_fpn as mask_rcnn_resnet101_fpn,
)
from .panoptic_fpn import (
    PanopticFPN as PanopticFPN,
    PanopticLogits as PanopticLogits,
    panoptic_fpn as panoptic_fpn,
    panoptic_fpn_resnet50 as panoptic_fpn_resnet50,
)
from .piecewise_crf import (
    PiecewiseCRF as PiecewiseCRF,
    PiecewiseLogits as PiecewiseLogits,
    piecewise_crf as piecewise_crf,
)
from .pspnet import (
    PSPNet as PSPNet,
    PyramidPooling as PyramidPooling,
    from_semseg as from_semseg,
    pspnet as pspnet,
    pspnet_resnet50 as pspnet_resnet50,
    pspnet_resnet101 as pspnet_resnet101,
)
from .segnet import (
    SegNet as SegNet,
    SegNetBasic as SegNetBasic,
    segnet as segnet,
    segnet_basic as segnet_basic,
)
from .simplebaseline import (
    SimpleBaseline as SimpleBaseline,
    from_simplebaseline as from_simplebaseline,
    simplebaseline as simplebaseline,
    simplebaseline_resnet50 as simplebaseline_resnet50,
)
from .smp import (
    SMPFPN as SMPFPN,
    SMPLinknet as SMPLinknet,
    SMPPSPNet as SMPPSPNet,
    from_smp as from_smp,
    smp_fpn as smp_fpn,
    smp_linknet as smp_linknet,
    smp_pspnet as smp_pspnet,
)
from .smp_deeplabv3 import (
    SMPDeepLabV3 as SMPDeepLabV3,
    SMPDeepLabV3Plus as SMPDeepLabV3Plus,
    smp_deeplabv3 as smp_deeplabv3,
    smp_deeplabv3plus as smp_deeplabv3plus,
)
from .unet import (
    EncoderUNet as EncoderUNet,
    UNet as UNet,
    UNetOriginal as UNetOriginal,
    from_milesial as from_milesial,
    unet as unet,
    unet_bilinear as unet_bilinear,
    unet_original as unet_original,
)
from .unet3d import UNet3D as UNet3D, unet3d as unet3d
from .vnet import VNet as VNet, VNetReleased as VNetReleased, vnet as vnet, vnet_released as vnet_released
