"""What `dsa run --help` and its siblings say of their arguments."""

ZOO_HELP = "all of ours and all classifiers and segmenters of torchvision (takes hours)"
MODEL_HELP = "resnet20, resnet56, resnet8, ..., a torchvision name, or package.module:factory"
SEED_HELP = (
    "of weights, batches and masks, from 0 to 2^64 - 1; repeat it for several runs (default: 0)"
)
PRESET_HELP = (
    "tiny: digits, seconds; quick: digits, 1-2 minutes; vit-quick: a vision transformer of timm's; "
    "cpu-short: CIFAR-10, under 90 minutes on 2 cores; "
    "cpu-dense: the same time, but a short search, then the dense weights are cut and tuned; "
    "seg-quick, sr-quick: segmentation and super-resolution, minutes, offline; "
    "seg-short: CamVid in DATA/voc; sr-short: T91 to Set5 in DATA/sr; "
    "paper: CIFAR-10, 300 epochs from random weights; imagenet: 120 epochs of folder:PATH; "
    "imagenet-short: 27 epochs of it from --weights of a trained ResNet-50"
)
METHOD_HELP = (
    "dsa, uniform, random, knapsack, dcss, dtp, dtp-weight (single weights), ssl, morphnet or amc "
    "(extra amc); repeat it for several methods (default: dsa)"
)
BUDGET_HELP = (
    "macs=RATIO, params=RATIO or latency=RATIO, RATIO in (0, 1] of the dense network; or "
    "latency_ms=TIME of a batch; latency needs --calibration. Several resources make one budget "
    "of all of them; several values for one resource make several runs (default: macs=0.5)"
)
CALIBRATION_HELP = "the latency model of this machine: a file written by `dsa calibrate MODEL`"
DATASET_HELP = (
    "digits, cifar10, cifar100, fashion_mnist, or folder:PATH; to segment: digit_scenes or "
    "voc:PATH@HEIGHTxWIDTH; to enlarge: photo_patches or sr:TRAIN,TEST; @skip at the end "
    "leaves out images that cannot be read (default: the preset's)"
)
FLOOR_HELP = (
    "GROUP=RATIO, the smallest keep ratio of a group; may be repeated; * stands for all other "
    "groups; `dsa groups MODEL` lists the names"
)
DIVISOR_HELP = "kept channels are a multiple of this, or the whole group; 8 suits many processors"
SET_HELP = (
    "SETTING=VALUE, a setting of the preset by its path, such as search.ratio_every=10 or "
    "search.train.epochs=8; may be repeated; config.json of a run lists those in use, "
    "`pydoc dsa_core.methods.CLASS` those of a method: DSA, DCSS, DTP, DTPWeight, SSL, MorphNet, "
    "AMCSettings"
)
FORCE_HELP = (
    "search and fine-tune again even if the run is complete; the dense network is reused; after a "
    "stop leave it out to resume"
)
WEIGHTS_HELP = (
    "start from these dense weights instead of training: .safetensors, or a state dict "
    "written by torch.save"
)
ONNX_HELP = "also write the pruned network as ONNX, compared and timed in ONNX Runtime"
INT8_HELP = "write it in 8-bit integers too, quantised on 512 training images, with its score"
WORKERS_HELP = (
    "processes per GPU that read the images of folder:PATH; they change no number (default: one "
    "per processor, at most 8)"
)
OUT_HELP = "folder of the runs; a run found there is resumed, or shown if complete"
ROOT_HELP = "folder of the datasets (default: the variable DSA_DATA, else ./data)"
