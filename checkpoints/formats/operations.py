"""Operations of TensorFlow graphs by what they do: those that compute, and no others, are run out of a file.

A graph in a file is a program of unknown origin: it can hold operations that read and write files, call Python or open
connections.
"""

COMPUTING = frozenset({
    "Abs", "AccumulateNV2", "Acos", "Acosh", "Add", "AddN", "AddV2", "AdjustContrast", "AdjustContrastv2", "AdjustHue",
    "AdjustSaturation", "All", "Any", "ApproximateEqual", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atan2", "Atanh",
    "AvgPool", "AvgPool3D", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "BatchToSpace", "BatchToSpaceND",
    "BiasAdd", "BiasAddV1", "Bitcast", "BroadcastArgs", "BroadcastGradientArgs", "BroadcastTo", "Cast", "Ceil",
    "CheckNumerics", "ClipByValue", "Concat", "ConcatOffset", "ConcatV2", "Const", "ControlTrigger", "Conv2D",
    "Conv2DBackpropInput", "Conv3D", "Cos", "Cosh", "CropAndResize", "Cumprod", "Cumsum", "DataFormatDimMap",
    "DataFormatVecPermute", "DepthToSpace", "DepthwiseConv2dNative", "Diag", "DiagPart", "Dilation2D", "Div",
    "DivNoNan", "DynamicPartition", "DynamicStitch", "Einsum", "Elu", "EnsureShape", "Enter", "Equal", "Erf", "Erfc",
    "EuclideanNorm", "Exit", "Exp", "ExpandDims", "Expm1", "ExtractImagePatches", "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "Fill", "Floor", "FloorDiv", "FloorMod",
    "FusedPadConv2D", "Gather", "GatherNd", "GatherV2", "Greater", "GreaterEqual", "GuaranteeConst", "HSVToRGB",
    "Identity", "IdentityN", "If", "ImageProjectiveTransformV2", "ImageProjectiveTransformV3", "Inv",
    "InvertPermutation", "IsFinite", "IsInf", "IsNan", "L2Loss", "LRN", "LeakyRelu", "Less", "LessEqual", "LinSpace",
    "Log", "Log1p", "LogSoftmax", "LogicalAnd", "LogicalNot", "LogicalOr", "LoopCond", "MatMul", "MatrixBandPart",
    "MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", "Max", "MaxPool", "MaxPool3D", "MaxPoolV2", "MaxPoolWithArgmax",
    "Maximum", "Mean", "Merge", "Min", "Minimum", "MirrorPad", "Mod", "Mul", "MulNoNan", "Neg", "NextIteration", "NoOp",
    "NotEqual", "OneHot", "OnesLike", "Pack", "Pad", "PadV2", "PartitionedCall", "Placeholder", "PlaceholderV2",
    "PlaceholderWithDefault", "Pow", "PreventGradient", "Prod", "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3",
    "QuantizeAndDequantizeV4", "RGBToHSV", "Range", "Rank", "ReadVariableOp", "RealDiv", "Reciprocal", "RefEnter",
    "RefExit", "RefIdentity", "RefMerge", "RefNextIteration", "RefSwitch", "Relu", "Relu6", "Reshape", "ResizeArea",
    "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "ResourceGather", "Reverse", "ReverseV2", "Rint",
    "Roll", "Round", "Rsqrt", "ScaleAndTranslate", "ScatterNd", "Select", "SelectV2", "Selu", "Shape", "ShapeN",
    "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Snapshot", "Softmax", "Softplus", "Softsign", "SpaceToBatch",
    "SpaceToBatchND", "SpaceToDepth", "Split", "SplitV", "Sqrt", "Square", "SquaredDifference", "Squeeze",
    "StatefulPartitionedCall", "StatelessIf", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounter",
    "StatelessRandomGetKeyCounterAlg", "StatelessWhile", "StopGradient", "StridedSlice", "Sub", "Sum", "Switch", "Tan",
    "Tanh", "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3", "TensorArrayV3",
    "TensorArrayWriteV3", "TensorListFromTensor", "TensorListGetItem", "TensorListLength", "TensorListReserve",
    "TensorListSetItem", "TensorListStack", "TensorScatterUpdate", "Tile", "TopK", "TopKV2", "Transpose", "TruncateDiv",
    "TruncateMod", "Unpack", "UnravelIndex", "VariableShape", "Where", "While", "Xdivy", "Xlogy", "ZerosLike",
})  # fmt: skip
RANDOM = frozenset({
    "Multinomial", "RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "StatelessMultinomial",
    "StatelessRandomBinomial", "StatelessRandomGammaV2", "StatelessRandomGammaV3", "StatelessRandomNormal",
    "StatelessRandomNormalV2", "StatelessRandomUniform", "StatelessRandomUniformFullInt",
    "StatelessRandomUniformFullIntV2", "StatelessRandomUniformInt", "StatelessRandomUniformIntV2",
    "StatelessRandomUniformV2", "StatelessShuffle", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2",
    "TruncatedNormal",
})  # fmt: skip
FUSED = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp"})
ASSIGNMENTS = frozenset(
    {"Assign", "AssignAdd", "AssignSub", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
)
GRADIENTS = frozenset({
    "AvgPoolGrad", "BiasAddGrad", "Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter",
    "DepthwiseConv2dNativeBackpropInput", "EluGrad", "FusedBatchNormGrad", "FusedBatchNormGradV2",
    "FusedBatchNormGradV3", "InvGrad", "LRNGrad", "LeakyReluGrad", "MaxPoolGrad", "MaxPoolGradGrad", "MaxPoolGradV2",
    "MirrorPadGrad", "ReciprocalGrad", "Relu6Grad", "ReluGrad", "ResizeBicubicGrad", "ResizeBilinearGrad",
    "ResizeNearestNeighborGrad", "RsqrtGrad", "SeluGrad", "SigmoidGrad", "SoftplusGrad", "SoftsignGrad", "SqrtGrad",
    "StridedSliceGrad", "TanhGrad",
})  # fmt: skip
"""What functions hold that were differentiated before they were saved."""
IN_MODULES = frozenset({
    "Assert", "DisableCopyOnRead", "EmptyTensorList", "RngReadAndSkip", "RngSkip", "StatefulRandomBinomial",
    "StatefulStandardNormal", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniform",
    "StatefulUniformFullInt", "StatefulUniformInt", "TensorListElementShape", "TensorListPopBack", "TensorListPushBack",
    "VarIsInitializedOp",
})  # fmt: skip
"""Further ones of functions that are called as they were saved: they compute as well, stop, or look at variables."""
_REASONS = {
    "ReadFile": "reads a file",
    "WriteFile": "writes a file",
    "MatchingFiles": "lists files",
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), "runs Python code"),
}


def reason(op: str) -> str:
    """What is wrong with an operation that is in none of these sets, after "which"."""
    import tensorflow as tf

    known = _REASONS.get(op)
    if known:
        return known
    if not hasattr(tf.raw_ops, op):
        return "TensorFlow does not have (it is a custom operation, or of another version)"
    return "is not one of those known to compute only"
