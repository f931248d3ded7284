"""Every network, by name. This namespace is the registry: a line here is all that a new model needs."""

from .acnet import ACNet as ACNet, acnet as acnet, acnet_resnet101 as acnet_resnet101
from .apcnet import APCNet as APCNet, apcnet as apcnet, apcnet_resnet101 as apcnet_resnet101
from .bisenet import (
    BiSeNet as BiSeNet,
    CoinCheungBiSeNet as CoinCheungBiSeNet,
    bisenet as bisenet,
    bisenet_coincheung as bisenet_coincheung,
    bisenet_resnet18 as bisenet_resnet18,
    bisenet_resnet101 as bisenet_resnet101,
    from_coincheung as from_coincheung,
    from_torchseg_bisenet as from_torchseg_bisenet,
)
from .ccl import CCL as CCL, ccl as ccl, ccl_resnet101 as ccl_resnet101
from .ccnet import (
    CCNet as CCNet,
    ccnet as ccnet,
    ccnet_resnet101 as ccnet_resnet101,
    from_ccnet as from_ccnet,
)
from .centermask import (
    CenterMask as CenterMask,
    centermask as centermask,
    centermask_resnet50 as centermask_resnet50,
    centermask_resnet101 as centermask_resnet101,
    centermask_vovnet39 as centermask_vovnet39,
)
from .condinst import (
    CondInst as CondInst,
    condinst as condinst,
    condinst_resnet50 as condinst_resnet50,
)
from .convnext import (
    convnext_base_upernet as convnext_base_upernet,
    convnext_large_upernet as convnext_large_upernet,
    convnext_small_upernet as convnext_small_upernet,
    convnext_tiny_upernet as convnext_tiny_upernet,
    convnext_upernet as convnext_upernet,
    convnext_xlarge_upernet as convnext_xlarge_upernet,
    from_mmseg_convnext as from_mmseg_convnext,
    from_transformers_convnext as from_transformers_convnext,
)
from .crf_rnn import CRFRNN as CRFRNN, crf_rnn as crf_rnn, from_crfasrnn as from_crfasrnn
from .danet import (
    DANet as DANet,
    danet as danet,
    danet_resnet50 as danet_resnet50,
    danet_resnet101 as danet_resnet101,
    from_danet as from_danet,
)
from .deconvnet import DeconvNet as DeconvNet, deconvnet as deconvnet
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
    deeplabv2_caffe as deeplabv2_caffe,
    deeplabv2_resnet101 as deeplabv2_resnet101,
    deeplabv2_vgg16 as deeplabv2_vgg16,
    from_kazuto1011 as from_kazuto1011,
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
from .deepmask import DeepMask as DeepMask, deepmask as deepmask
from .denseaspp import DenseASPP as DenseASPP, denseaspp_densenet161 as denseaspp_densenet161
from .detectron2 import (
    detectron2_mask_rcnn as detectron2_mask_rcnn,
    detectron2_panoptic_fpn as detectron2_panoptic_fpn,
    from_detectron2_mask_rcnn as from_detectron2_mask_rcnn,
    from_detectron2_panoptic_fpn as from_detectron2_panoptic_fpn,
)
from .detr import (
    DETR as DETR,
    DETRPanoptic as DETRPanoptic,
    detr as detr,
    detr_panoptic as detr_panoptic,
    detr_panoptic_resnet50 as detr_panoptic_resnet50,
    detr_panoptic_resnet101 as detr_panoptic_resnet101,
    detr_resnet50 as detr_resnet50,
    detr_resnet50_dc5 as detr_resnet50_dc5,
    detr_resnet101 as detr_resnet101,
    from_detr as from_detr,
    from_transformers_detr as from_transformers_detr,
)
from .dfn import DFN as DFN, DFNLogits as DFNLogits, dfn as dfn, dfn_resnet101 as dfn_resnet101
from .dilation import (
    Dilation as Dilation,
    DilationWithTransposed as DilationWithTransposed,
    dilation8 as dilation8,
    dilation10 as dilation10,
)
from .dis import DIS as DIS, dis as dis, dis_resnet101 as dis_resnet101
from .dmnet import DMNet as DMNet, dmnet as dmnet, dmnet_resnet101 as dmnet_resnet101
from .dpt import (
    DPT as DPT,
    dpt as dpt,
    dpt_hybrid as dpt_hybrid,
    dpt_large as dpt_large,
    from_transformers_dpt as from_transformers_dpt,
)
from .dsspn import DSSPN as DSSPN, dsspn as dsspn, dsspn_resnet101 as dsspn_resnet101
from .duc_hdc import DUC as DUC, DUCHDC as DUCHDC, duc_hdc as duc_hdc, duc_hdc_resnet101 as duc_hdc_resnet101
from .efficient_sam import (
    EfficientSAM as EfficientSAM,
    efficient_sam_s as efficient_sam_s,
    efficient_sam_ti as efficient_sam_ti,
    from_efficient_sam as from_efficient_sam,
)
from .efficientfcn import (
    EfficientFCN as EfficientFCN,
    efficientfcn as efficientfcn,
    efficientfcn_resnet101 as efficientfcn_resnet101,
)
from .emanet import (
    EMANet as EMANet,
    emanet as emanet,
    emanet_resnet50 as emanet_resnet50,
    emanet_resnet101 as emanet_resnet101,
    emanet_resnet152 as emanet_resnet152,
    from_emanet as from_emanet,
)
from .encnet import (
    EncNet as EncNet,
    EncNetLogits as EncNetLogits,
    encnet as encnet,
    encnet_resnet50 as encnet_resnet50,
    encnet_resnet101 as encnet_resnet101,
    from_encnet as from_encnet,
)
from .eomt import (
    EoMT as EoMT,
    eomt as eomt,
    eomt_base as eomt_base,
    eomt_large as eomt_large,
    eomt_small as eomt_small,
    from_eomt as from_eomt,
    from_transformers_eomt as from_transformers_eomt,
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
from .exfuse import (
    ExFuse as ExFuse,
    SemanticSupervision as SemanticSupervision,
    exfuse as exfuse,
    exfuse_resnet101 as exfuse_resnet101,
    exfuse_resnext101 as exfuse_resnext101,
    exfuse_resnext131 as exfuse_resnext131,
)
from .fast_rcnn import (
    BoxHead as BoxHead,
    FastRCNN as FastRCNN,
    fast_rcnn as fast_rcnn,
    fast_rcnn_vgg16 as fast_rcnn_vgg16,
)
from .faster_rcnn import (
    FasterRCNN as FasterRCNN,
    RegionProposalNetwork as RegionProposalNetwork,
    faster_rcnn as faster_rcnn,
    faster_rcnn_resnet50_fpn as faster_rcnn_resnet50_fpn,
    faster_rcnn_resnet50_fpn_v2 as faster_rcnn_resnet50_fpn_v2,
    from_torchvision_faster_rcnn as from_torchvision_faster_rcnn,
)
from .fastfcn import (
    FastFCN as FastFCN,
    fastfcn as fastfcn,
    fastfcn_resnet50 as fastfcn_resnet50,
    from_fastfcn as from_fastfcn,
)
from .fc_densenet import (
    FCDenseNet as FCDenseNet,
    fc_densenet56 as fc_densenet56,
    fc_densenet67 as fc_densenet67,
    fc_densenet103 as fc_densenet103,
)
from .fcis import FCIS as FCIS, FCISLogits as FCISLogits, fcis as fcis, fcis_resnet101 as fcis_resnet101
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
from .fcn32s import (
    FCN32sAlexNet as FCN32sAlexNet,
    FCN32sGoogLeNet as FCN32sGoogLeNet,
    fcn32s_alexnet as fcn32s_alexnet,
    fcn32s_googlenet as fcn32s_googlenet,
)
from .fcos import FCOS as FCOS, fcos as fcos, fcos_resnet50_fpn as fcos_resnet50_fpn
from .feature_pyramid import FeaturePyramid as FeaturePyramid
from .foveanet import FoveaNet as FoveaNet, foveanet as foveanet, foveanet_resnet101 as foveanet_resnet101
from .fpn import FPN as FPN, fpn as fpn
from .frrn import FRRN as FRRN, frrn_a as frrn_a, frrn_b as frrn_b
from .full_resolution_cnn import (
    FullResolutionCNN as FullResolutionCNN,
    full_resolution_cnn as full_resolution_cnn,
)
from .gated_scnn import (
    EdgeLogits as EdgeLogits,
    GatedConvolution as GatedConvolution,
    GatedSCNN as GatedSCNN,
    gated_scnn as gated_scnn,
    gated_scnn_wide_resnet38 as gated_scnn_wide_resnet38,
)
from .gcn import (
    GCN as GCN,
    BoundaryRefinement as BoundaryRefinement,
    GlobalConvolution as GlobalConvolution,
    gcn as gcn,
    gcn_resnet101 as gcn_resnet101,
    gcn_resnet152 as gcn_resnet152,
)
from .gridnet import GridNet as GridNet, gridnet as gridnet
from .hmsa_ocrnet import (
    HMSAOCRNet as HMSAOCRNet,
    MultiScaleLogits as MultiScaleLogits,
    hmsa_ocrnet as hmsa_ocrnet,
    hmsa_ocrnet_hrnet_w48 as hmsa_ocrnet_hrnet_w48,
)
from .hourglass import (
    StackedHourglass as StackedHourglass,
    hourglass as hourglass,
    hourglass_2 as hourglass_2,
    hourglass_8 as hourglass_8,
)
from .hrformer import (
    hrformer as hrformer,
    hrformer_base as hrformer_base,
    hrformer_small as hrformer_small,
)
from .hrnet import (
    HighResolutionPyramid as HighResolutionPyramid,
    HRNetV1 as HRNetV1,
    HRNetV2 as HRNetV2,
    HRNetV2p as HRNetV2p,
    from_hrnet_segmentation as from_hrnet_segmentation,
    hrnetv1_w32 as hrnetv1_w32,
    hrnetv2 as hrnetv2,
    hrnetv2_w18 as hrnetv2_w18,
    hrnetv2_w32 as hrnetv2_w32,
    hrnetv2_w48 as hrnetv2_w48,
    hrnetv2p_w32 as hrnetv2p_w32,
)
from .hrnet_pose import (
    HRNetPose as HRNetPose,
    from_hrnet_pose as from_hrnet_pose,
    hrnet_pose as hrnet_pose,
    hrnet_pose_w32 as hrnet_pose_w32,
    hrnet_pose_w48 as hrnet_pose_w48,
)
from .keypoint_rcnn import (
    KeypointHead as KeypointHead,
    KeypointRCNN as KeypointRCNN,
    KeypointRegionLogits as KeypointRegionLogits,
    from_torchvision_keypoint_rcnn as from_torchvision_keypoint_rcnn,
    keypoint_rcnn as keypoint_rcnn,
    keypoint_rcnn_resnet50_fpn as keypoint_rcnn_resnet50_fpn,
)
from .ladder_densenet import (
    LadderDenseNet as LadderDenseNet,
    LadderLogits as LadderLogits,
    LadderUnit as LadderUnit,
    ladder_densenet as ladder_densenet,
    ladder_densenet121 as ladder_densenet121,
    ladder_densenet169 as ladder_densenet169,
)
from .linknet import LinkNet as LinkNet, linknet as linknet
from .lraspp import LRASPP as LRASPP, from_torchvision_lraspp as from_torchvision_lraspp, lraspp as lraspp
from .manet import MANet as MANet, from_smp_manet as from_smp_manet, manet as manet
from .mask2former import (
    Mask2Former as Mask2Former,
    from_transformers_mask2former as from_transformers_mask2former,
    mask2former as mask2former,
    mask2former_resnet50 as mask2former_resnet50,
    mask2former_resnet101 as mask2former_resnet101,
    mask2former_swin_base as mask2former_swin_base,
    mask2former_swin_large as mask2former_swin_large,
    mask2former_swin_small as mask2former_swin_small,
    mask2former_swin_tiny as mask2former_swin_tiny,
)
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
from .maskformer import (
    MaskFormer as MaskFormer,
    MaskFormerLogits as MaskFormerLogits,
    from_transformers_maskformer as from_transformers_maskformer,
    maskformer as maskformer,
    maskformer_resnet50 as maskformer_resnet50,
    maskformer_resnet101 as maskformer_resnet101,
    maskformer_swin_base as maskformer_swin_base,
    maskformer_swin_large as maskformer_swin_large,
    maskformer_swin_small as maskformer_swin_small,
    maskformer_swin_tiny as maskformer_swin_tiny,
)
from .mmseg import (
    MMSegNetwork as MMSegNetwork,
    from_mmseg_cnn as from_mmseg_cnn,
    mmseg_deeplabv3 as mmseg_deeplabv3,
    mmseg_deeplabv3plus as mmseg_deeplabv3plus,
    mmseg_fcn as mmseg_fcn,
    mmseg_hrnet as mmseg_hrnet,
    mmseg_pspnet as mmseg_pspnet,
)
from .mobile_sam import from_mobile_sam as from_mobile_sam, mobile_sam as mobile_sam
from .modnet import MODNet as MODNet, from_zhkkke as from_zhkkke, modnet as modnet
from .msci import MSCI as MSCI, msci as msci, msci_resnet152 as msci_resnet152
from .nasfpn import (
    NASFPN as NASFPN,
    NASFPNCell as NASFPNCell,
    nasfpn as nasfpn,
    nasfpn_efficientnet_b7 as nasfpn_efficientnet_b7,
    nasfpn_efficientnet_l2 as nasfpn_efficientnet_l2,
)
from .ocrnet import (
    ObjectAttention as ObjectAttention,
    ObjectContext as ObjectContext,
    OCRNet as OCRNet,
    from_hrnet_ocr as from_hrnet_ocr,
    ocrnet as ocrnet,
    ocrnet_hrnet as ocrnet_hrnet,
    ocrnet_hrnet_w48 as ocrnet_hrnet_w48,
    ocrnet_hrnet_w48_aspp as ocrnet_hrnet_w48_aspp,
    ocrnet_resnet101 as ocrnet_resnet101,
)
from .pan import (
    PAN as PAN,
    FeaturePyramidAttention as FeaturePyramidAttention,
    GlobalAttentionUpsample as GlobalAttentionUpsample,
    pan as pan,
)
from .panet import PANet as PANet, panet as panet, panet_resnet50 as panet_resnet50
from .panoptic_deeplab import (
    PanopticDeepLab as PanopticDeepLab,
    panoptic_deeplab as panoptic_deeplab,
    panoptic_deeplab_resnet50 as panoptic_deeplab_resnet50,
    panoptic_deeplab_xception71 as panoptic_deeplab_xception71,
)
from .panoptic_fpn import (
    PanopticFPN as PanopticFPN,
    PanopticLogits as PanopticLogits,
    panoptic_fpn as panoptic_fpn,
    panoptic_fpn_resnet50 as panoptic_fpn_resnet50,
)
from .patch_classifier import PatchClassifier as PatchClassifier, patch_classifier as patch_classifier
from .piecewise_crf import (
    PiecewiseCRF as PiecewiseCRF,
    PiecewiseLogits as PiecewiseLogits,
    piecewise_crf as piecewise_crf,
)
from .pointrend import PointLogits as PointLogits, PointRend as PointRend, pointrend as pointrend
from .polarmask import (
    PolarMask as PolarMask,
    polarmask as polarmask,
    polarmask_resnet50 as polarmask_resnet50,
)
from .psanet import (
    PSANet as PSANet,
    from_semseg_psanet as from_semseg_psanet,
    psanet as psanet,
    psanet_resnet101 as psanet_resnet101,
)
from .pspnet import (
    PSPNet as PSPNet,
    PyramidPooling as PyramidPooling,
    from_semseg as from_semseg,
    pspnet as pspnet,
    pspnet_resnet50 as pspnet_resnet50,
    pspnet_resnet101 as pspnet_resnet101,
)
from .pvt import (
    SemanticFPN as SemanticFPN,
    from_whai362_pvt as from_whai362_pvt,
    pvt as pvt,
    pvt_large as pvt_large,
    pvt_medium as pvt_medium,
    pvt_small as pvt_small,
    pvt_tiny as pvt_tiny,
)
from .pvtv2 import (
    pvtv2 as pvtv2,
    pvtv2_b0 as pvtv2_b0,
    pvtv2_b1 as pvtv2_b1,
    pvtv2_b2 as pvtv2_b2,
    pvtv2_b3 as pvtv2_b3,
    pvtv2_b4 as pvtv2_b4,
    pvtv2_b5 as pvtv2_b5,
)
from .rcnn import RCNN as RCNN, ProposedRegionLogits as ProposedRegionLogits, rcnn as rcnn
from .refinenet import (
    ChainedResidualPooling as ChainedResidualPooling,
    RefineNet as RefineNet,
    ResidualConvUnit as ResidualConvUnit,
    from_drsleep as from_drsleep,
    refinenet as refinenet,
    refinenet_resnet101 as refinenet_resnet101,
    refinenet_resnet152 as refinenet_resnet152,
)
from .retinamask import (
    RetinaMask as RetinaMask,
    RetinaMaskLogits as RetinaMaskLogits,
    retinamask as retinamask,
    retinamask_resnet50 as retinamask_resnet50,
    retinamask_resnet101 as retinamask_resnet101,
)
from .retinanet import (
    AnchorLogits as AnchorLogits,
    RetinaNet as RetinaNet,
    from_torchvision_retinanet as from_torchvision_retinanet,
    retinanet as retinanet,
    retinanet_resnet50_fpn as retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2 as retinanet_resnet50_fpn_v2,
)
from .sam import (
    SAM as SAM,
    from_segment_anything as from_segment_anything,
    sam as sam,
    sam_vit_b as sam_vit_b,
    sam_vit_h as sam_vit_h,
    sam_vit_l as sam_vit_l,
)
from .sam2 import (
    SAM2 as SAM2,
    from_sam2 as from_sam2,
    from_transformers_sam2 as from_transformers_sam2,
    sam2 as sam2,
    sam2_hiera_base_plus as sam2_hiera_base_plus,
    sam2_hiera_large as sam2_hiera_large,
    sam2_hiera_small as sam2_hiera_small,
    sam2_hiera_tiny as sam2_hiera_tiny,
)
from .sdn import SDN as SDN, sdn as sdn, sdn_densenet161 as sdn_densenet161
from .segformer import (
    SegFormer as SegFormer,
    from_mmseg_segformer as from_mmseg_segformer,
    from_nvlabs as from_nvlabs,
    from_transformers_segformer as from_transformers_segformer,
    segformer as segformer,
    segformer_b0 as segformer_b0,
    segformer_b1 as segformer_b1,
    segformer_b2 as segformer_b2,
    segformer_b3 as segformer_b3,
    segformer_b4 as segformer_b4,
    segformer_b5 as segformer_b5,
)
from .segmenter import (
    MaskTransformer as MaskTransformer,
    Segmenter as Segmenter,
    from_mmseg_segmenter as from_mmseg_segmenter,
    from_rstrudel as from_rstrudel,
    segmenter as segmenter,
    segmenter_vit_base as segmenter_vit_base,
    segmenter_vit_large as segmenter_vit_large,
    segmenter_vit_small as segmenter_vit_small,
    segmenter_vit_tiny as segmenter_vit_tiny,
)
from .segnet import (
    SegNet as SegNet,
    SegNetBasic as SegNetBasic,
    segnet as segnet,
    segnet_basic as segnet_basic,
)
from .setr import (
    SETR as SETR,
    SETRMLA as SETRMLA,
    from_mmseg_setr as from_mmseg_setr,
    setr_mla as setr_mla,
    setr_mmseg as setr_mmseg,
    setr_naive as setr_naive,
    setr_pup as setr_pup,
)
from .sgr import SGR as SGR, sgr as sgr, sgr_resnet101 as sgr_resnet101
from .shapemask import (
    ShapeMask as ShapeMask,
    shapemask as shapemask,
    shapemask_resnet101 as shapemask_resnet101,
)
from .sharpmask import SharpMask as SharpMask, sharpmask as sharpmask
from .simplebaseline import (
    SimpleBaseline as SimpleBaseline,
    from_simplebaseline as from_simplebaseline,
    simplebaseline as simplebaseline,
    simplebaseline_resnet50 as simplebaseline_resnet50,
)
from .sinet import SINet as SINet, from_sinet as from_sinet, sinet as sinet
from .smp import (
    SMPFPN as SMPFPN,
    SMPLinknet as SMPLinknet,
    from_smp as from_smp,
    smp_fpn as smp_fpn,
    smp_linknet as smp_linknet,
    smp_upernet as smp_upernet,
)
from .smp_deeplabv3 import (
    SMPDeepLabV3 as SMPDeepLabV3,
    SMPDeepLabV3Plus as SMPDeepLabV3Plus,
    smp_deeplabv3 as smp_deeplabv3,
    smp_deeplabv3plus as smp_deeplabv3plus,
)
from .smp_dpt import SMPDPT as SMPDPT, from_smp_dpt as from_smp_dpt, smp_dpt as smp_dpt
from .smp_pspnet import SMPPSPNet as SMPPSPNet, smp_pspnet as smp_pspnet
from .smp_segformer import (
    from_smp_segformer as from_smp_segformer,
    smp_segformer as smp_segformer,
)
from .solov2 import SOLOv2 as SOLOv2, solov2 as solov2, solov2_resnet50 as solov2_resnet50
from .spgnet import (
    PredictionGuidance as PredictionGuidance,
    SPGNet as SPGNet,
    spgnet as spgnet,
    spgnet_resnet50 as spgnet_resnet50,
)
from .swin import (
    from_mmseg_swin as from_mmseg_swin,
    from_transformers_swin as from_transformers_swin,
    swin_base_upernet as swin_base_upernet,
    swin_large_upernet as swin_large_upernet,
    swin_small_upernet as swin_small_upernet,
    swin_tiny_upernet as swin_tiny_upernet,
    swin_upernet as swin_upernet,
)
from .tensormask import (
    TensorMask as TensorMask,
    tensormask as tensormask,
    tensormask_resnet50 as tensormask_resnet50,
    tensormask_resnet101 as tensormask_resnet101,
)
from .ternausnet import (
    TernausNet as TernausNet,
    from_ternausnet as from_ternausnet,
    ternausnet11 as ternausnet11,
    ternausnet16 as ternausnet16,
)
from .unet import (
    EncoderUNet as EncoderUNet,
    UNet as UNet,
    UNetOriginal as UNetOriginal,
    from_milesial as from_milesial,
    unet as unet,
    unet_bilinear as unet_bilinear,
    unet_original as unet_original,
    unet_wide as unet_wide,
)
from .unet3d import UNet3D as UNet3D, unet3d as unet3d
from .unet_watershed import UNetWatershed as UNetWatershed, unet_watershed as unet_watershed
from .unetplusplus import (
    EncoderUNetPlusPlus as EncoderUNetPlusPlus,
    UNetPlusPlus as UNetPlusPlus,
    unetplusplus as unetplusplus,
)
from .upernet import (
    UPerNet as UPerNet,
    from_mmseg_upernet as from_mmseg_upernet,
    upernet as upernet,
)
from .upsnet import UPSNet as UPSNet, upsnet as upsnet, upsnet_resnet50 as upsnet_resnet50
from .vainf import (
    VainFDeepLabV3Plus as VainFDeepLabV3Plus,
    from_vainf as from_vainf,
    vainf_deeplabv3 as vainf_deeplabv3,
    vainf_deeplabv3plus as vainf_deeplabv3plus,
)
from .vnet import VNet as VNet, VNetReleased as VNetReleased, vnet as vnet, vnet_released as vnet_released
from .wide_resnet38 import WideResNetSegmentation as WideResNetSegmentation, wide_resnet38 as wide_resnet38
from .yolact import (
    YOLACT as YOLACT,
    from_yolact as from_yolact,
    yolact as yolact,
    yolact_resnet50 as yolact_resnet50,
    yolact_resnet101 as yolact_resnet101,
)
from .yolact_plus import (
    YOLACTPlus as YOLACTPlus,
    yolact_plus as yolact_plus,
    yolact_plus_resnet50 as yolact_plus_resnet50,
)
