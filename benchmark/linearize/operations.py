"""What becomes of each operator of ATen in a linearised network; an operator in none of these tables is refused."""

from typing import Any

import torch

aten = torch.ops.aten

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.leaky_relu.default: "leaky_relu",
    aten._prelu_kernel.default: "prelu",
    aten.prelu.default: "prelu",
    aten.elu.default: "elu",  # selu too
    aten.celu.default: "celu",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.mish.default: "mish",
    aten.sigmoid.default: "sigmoid",
    aten.log_sigmoid_forward.default: "logsigmoid",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.tanh.default: "tanh",
    aten.hardtanh.default: "hardtanh",  # relu6 too
    aten.hardswish.default: "hardswish",
    aten.softplus.default: "softplus",
    aten.hardshrink.default: "hardshrink",
    aten.softshrink.default: "softshrink",
    aten.threshold.default: "threshold",
    aten.clamp.default: "clamp",
    aten.clamp_min.default: "clamp",
    aten.clamp_max.default: "clamp",
}
"""They become the identity."""

LARGER = (aten.maximum.default, aten.minimum.default)

FIRST: dict[Any, str] = {
    aten.convolution.default: "convolution",
    aten.avg_pool1d.default: "average pooling",
    aten.avg_pool2d.default: "average pooling",
    aten.avg_pool3d.default: "average pooling",
    aten._adaptive_avg_pool2d.default: "average pooling",
    aten._adaptive_avg_pool3d.default: "average pooling",
    aten.mean.dim: "mean",
    aten.mean.default: "mean",
    aten.sum.dim_IntList: "sum over dimensions",
    aten.sum.default: "sum over dimensions",
    aten.upsample_nearest2d.default: "resizing",
    aten.upsample_nearest2d.vec: "resizing",
    aten._upsample_nearest_exact2d.default: "resizing",
    aten.upsample_bilinear2d.default: "resizing",
    aten.upsample_bilinear2d.vec: "resizing",
    aten._upsample_bilinear2d_aa.default: "resizing",
    aten._upsample_bicubic2d_aa.default: "resizing",
    aten.upsample_bicubic2d.default: "resizing",
    aten.upsample_bicubic2d.vec: "resizing",
    aten.div.Tensor: "scale",
    aten.div.Scalar: "scale",
    aten.mul.Scalar: "scale",
    aten.neg.default: "scale",
    aten.add.Scalar: "shift",
    aten.sub.Scalar: "shift",
    aten.rsub.Scalar: "shift",
} | dict.fromkeys(
    (
        aten.clone.default,
        aten.constant_pad_nd.default,
        aten.reflection_pad2d.default,
        aten.replication_pad2d.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.expand.default,
        aten.repeat.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
        aten.flip.default,
        aten.roll.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.native_channel_shuffle.default,
        aten.im2col.default,
        aten.unfold.default,
    ),
    "",
)
"""Affine in their first argument while the others are constants; those without a name only move numbers."""

SUMS: dict[Any, str] = {
    aten.add.Tensor: "sum",
    aten.sub.Tensor: "sum",
    aten.rsub.Tensor: "sum",
    aten.cat.default: "concatenation",
    aten.stack.default: "concatenation",
    aten.slice_scatter.default: "",
    aten.select_scatter.default: "",
}
"""Affine in all their tensors together."""

PRODUCTS: dict[Any, str] = {
    aten.mul.Tensor: "scale",
    aten.mm.default: "linear",
    aten.bmm.default: "linear",
    aten.mv.default: "linear",
    aten.addmm.default: "linear",
    aten.baddbmm.default: "linear",
    aten.linear.default: "linear",
}
"""Affine in one factor while the other is a constant; what is added to the product may depend on the image too."""

SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten._to_copy.default)
"""The same numbers; float64 stands for every floating type."""

VIEWS = (aten.view.default, aten._unsafe_view.default)

FILLED: dict[Any, float | None] = {
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
    aten.full_like.default: None,
    aten.new_full.default: None,
}
"""Constants, though they ask a value for its shape; None: filled with their last argument."""

MAX_POOLS = (aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
ADAPTIVE_MAX_POOLS = (aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
)

FIRST_OF_TUPLE = (*MAX_POOLS, *ADAPTIVE_MAX_POOLS, *BATCH_NORMS, aten.log_sigmoid_forward.default)
"""Their first result alone has a stand-in."""

REFUSED = {
    "native_batch_norm_legit": "instance norm, or batch norm without running statistics,",
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "softmax": "softmax",
    "safe_softmax": "softmax",
    "log_softmax": "log-softmax",
    "logsumexp": "log-sum-exp",
    "glu": "a gate (glu)",
    "linalg_vector_norm": "division by a length (linalg_vector_norm)",
    "native_multi_head_attention": "attention",
    "transformer_encoder_layer_fwd": "attention",
}
"""Words for operators that are known to have no linear stand-in; `scaled_dot_product` ones are attention."""
