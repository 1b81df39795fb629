"""The street door: arrays and short forms in, arrays out.

Each function resolves everything odd (layouts, dtypes, padding modes, short forms), builds the problem once and
validates it once, asks the planner who computes it, and allocates the results.
"""

from fastconv.functional.conv import conv1d, conv2d, conv3d
from fastconv.functional.conv_backward import conv1d_backward, conv2d_backward, conv3d_backward
from fastconv.functional.conv_grad import (
    conv1d_input,
    conv1d_weight,
    conv2d_input,
    conv2d_weight,
    conv3d_input,
    conv3d_weight,
)
from fastconv.functional.conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from fastconv.functional.conv_transpose_backward import (
    conv_transpose1d_backward,
    conv_transpose2d_backward,
    conv_transpose3d_backward,
)
from fastconv.functional.correlate import convolve2d, correlate2d
from fastconv.functional.norm import local_response_norm, local_response_norm_backward
from fastconv.functional.pads import pad, pad_backward
from fastconv.functional.planning import explain, output_size, plan_conv2d
from fastconv.functional.pool_adaptive_avg import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
)
from fastconv.functional.pool_adaptive_max import (
    adaptive_max_pool1d,
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
)
from fastconv.functional.pool_avg import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
)
from fastconv.functional.pool_fractional import fractional_max_pool2d, fractional_max_pool2d_backward
from fastconv.functional.pool_lp import (
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
)
from fastconv.functional.pool_max import (
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from fastconv.functional.pool_unpool import (
    max_unpool1d,
    max_unpool1d_backward,
    max_unpool2d,
    max_unpool2d_backward,
    max_unpool3d,
    max_unpool3d_backward,
)
from fastconv.functional.prepared import prepare_conv2d
from fastconv.functional.upsampling import upsample, upsample_backward
from fastconv.functional.windows import fold, unfold

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "conv1d",
    "conv1d_backward",
    "conv1d_input",
    "conv1d_weight",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_weight",
    "conv3d",
    "conv3d_backward",
    "conv3d_input",
    "conv3d_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
    "convolve2d",
    "correlate2d",
    "explain",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool2d_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
    "output_size",
    "pad",
    "pad_backward",
    "plan_conv2d",
    "prepare_conv2d",
    "unfold",
    "upsample",
    "upsample_backward",
]
