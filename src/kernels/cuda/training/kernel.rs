//! The functions of `train/*.h`: their names, and the threads of their blocks.

/// The functions of `train/*.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels::cuda) enum TrainKernel {
    Conv64,
    Conv16,
    ConvData64,
    ConvData16,
    ConvWeights64,
    ConvWeights16,
    Depthwise,
    DepthwiseData,
    DepthwiseWeights,
    Moments,
    Norm,
    NormSums,
    Sums,
    NormBackward,
    Activate,
    ActivateBackward,
    MaxPool,
    MaxPoolBackward,
    AveragePool,
    AveragePoolBackward,
    GlobalAverage,
    GlobalAverageBackward,
    Upsample,
    UpsampleBackward,
    Copy,
    Zero,
    Add,
    Values,
    ValuesBackward,
    Import,
    Export,
    Attention,
    AttentionDots,
    AttentionQueries,
    AttentionKeys,
    Round,
    RoundBackward,
    Boxes,
    Confidence,
    Choose,
    Settle,
    ClassLoss,
    BoxLoss,
    AddUp,
    MomentsJoined,
    MomentsOwn,
    MomentsOfAll,
    MomentsGiven,
    SumsJoined,
    Squares,
    NormJoined,
    Step,
    RoundKernel,
    Keep,
    ImageSums,
    Terms,
    SampleValues,
    SampleSums,
    SampleProducts,
    PixelSquares,
    ChannelSquares,
}

impl TrainKernel {
    /// By position: each with its name and the threads of a block. Those from [`TrainKernel::AddUp`] on take no
    /// tensors, or only such in f32.
    const ALL: [(Self, &'static str, u32); 61] = [
        (Self::Conv64, "train_conv_64", 256),
        (Self::Conv16, "train_conv_16", 64),
        (Self::ConvData64, "train_conv_data_64", 256),
        (Self::ConvData16, "train_conv_data_16", 64),
        (Self::ConvWeights64, "train_conv_weights_64", 256),
        (Self::ConvWeights16, "train_conv_weights_16", 64),
        (Self::Depthwise, "train_depthwise", 256),
        (Self::DepthwiseData, "train_depthwise_data", 256),
        (Self::DepthwiseWeights, "train_depthwise_weights", 256),
        (Self::Moments, "train_moments", 256),
        (Self::Norm, "train_norm", 256),
        (Self::NormSums, "train_norm_sums", 256),
        (Self::Sums, "train_sums", 256),
        (Self::NormBackward, "train_norm_backward", 256),
        (Self::Activate, "train_activate", 256),
        (Self::ActivateBackward, "train_activate_backward", 256),
        (Self::MaxPool, "train_max_pool", 256),
        (Self::MaxPoolBackward, "train_max_pool_backward", 256),
        (Self::AveragePool, "train_average_pool", 256),
        (Self::AveragePoolBackward, "train_average_pool_backward", 256),
        (Self::GlobalAverage, "train_global_average", 256),
        (Self::GlobalAverageBackward, "train_global_average_backward", 256),
        (Self::Upsample, "train_upsample", 256),
        (Self::UpsampleBackward, "train_upsample_backward", 256),
        (Self::Copy, "train_copy", 256),
        (Self::Zero, "train_zero", 256),
        (Self::Add, "train_add", 256),
        (Self::Values, "train_values", 256),
        (Self::ValuesBackward, "train_values_backward", 256),
        (Self::Import, "train_import", 256),
        (Self::Export, "train_export", 256),
        (Self::Attention, "train_attention", 128),
        (Self::AttentionDots, "train_attention_dots", 256),
        (Self::AttentionQueries, "train_attention_queries", 128),
        (Self::AttentionKeys, "train_attention_keys", 128),
        (Self::Round, "train_round", 256),
        (Self::RoundBackward, "train_round_backward", 256),
        (Self::Boxes, "train_boxes", 256),
        (Self::Confidence, "train_confidence", 256),
        (Self::Choose, "train_choose", 128),
        (Self::Settle, "train_settle", 256),
        (Self::ClassLoss, "train_class_loss", 256),
        (Self::BoxLoss, "train_box_loss", 256),
        (Self::AddUp, "train_add_up", 256),
        (Self::MomentsJoined, "train_moments_joined", 256),
        (Self::MomentsOwn, "train_moments_own", 256),
        (Self::MomentsOfAll, "train_moments_of_all", 256),
        (Self::MomentsGiven, "train_moments_given", 256),
        (Self::SumsJoined, "train_sums_joined", 256),
        (Self::Squares, "train_squares", 256),
        (Self::NormJoined, "train_norm_joined", 32),
        (Self::Step, "train_step", 256),
        (Self::RoundKernel, "train_round_kernel", 256),
        (Self::Keep, "train_keep", 256),
        (Self::ImageSums, "train_image_sums", 256),
        (Self::Terms, "train_terms", 256),
        (Self::SampleValues, "train_sample_values", 256),
        (Self::SampleSums, "train_sample_sums", 256),
        (Self::SampleProducts, "train_sample_products", 256),
        (Self::PixelSquares, "train_pixel_squares", 256),
        (Self::ChannelSquares, "train_channel_squares", 256),
    ];

    /// All of them on tensors of every kind, with whether these are in f16.
    pub fn all() -> impl Iterator<Item = (Self, bool)> {
        let takes_tensors = |kernel: Self| (kernel as usize) < Self::AddUp as usize;
        let of = move |kernel: Self| [false, true].into_iter().filter(move |f16| !f16 || takes_tensors(kernel));
        Self::ALL.into_iter().flat_map(move |(kernel, ..)| of(kernel).map(move |f16| (kernel, f16)))
    }

    pub fn name(self, f16: bool) -> String {
        let name = Self::ALL[self as usize].1;
        match (self as usize) < Self::AddUp as usize {
            true => format!("{name}_{}", if f16 { "f16" } else { "f32" }),
            false => name.into(),
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        Self::ALL[self as usize].2
    }
}
