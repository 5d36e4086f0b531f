//! Parts of the denoiser as rows of the bench: one block of PixArt, one layer of ControlFormer.
//!
//! What all blocks of a step share stands among the weights: `t6`, the modulations of the time,
//! and `y`, the caption. All tokens of the caption are valid.

use super::models::ModelRow;
use crate::error::Result;
use crate::graph::{Graph, GraphBuilder, ValueId, passes};
use crate::models::Shapes;
use crate::models::controlformer::{DreamClear, Streams};
use crate::models::pixart::Conditions;
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};

/// One steered layer of the published model, and a caption of full length.
pub(super) const LAYER: &str = r#"{"hidden_size": 1152, "num_heads": 16, "mlp_ratio": 4.0, "depth": 1,
    "copy_blocks_num": 1, "model_max_length": 120}"#;

/// A block of PixArt on the tokens of one sample; the row's size is their grid.
pub(super) fn pixart_block(row: &ModelRow) -> Result<Graph> {
    record(row, 1, |b, net, x, given| b.scope("block", |b| net.base.block(b, x, given)))
}

/// A layer of ControlFormer on a pair of guidance: three blocks, the cross-attention of the
/// branches, MoAM. All three streams begin with the same tokens.
pub(super) fn controlformer_layer(row: &ModelRow) -> Result<Graph> {
    record(row, 2, |b, net, x, given| Ok(net.layer(b, 0, Streams { x, lq: x, pre: x }, given, 2)?.x))
}

fn record(
    row: &ModelRow,
    batch: usize,
    part: impl FnOnce(&mut GraphBuilder, &DreamClear, ValueId, &Conditions) -> Result<ValueId>,
) -> Result<Graph> {
    let (net, _) = DreamClear::from_config(Some(&row.config()), &Shapes::new())?;
    let (c, tokens) = (net.base.hidden_size, net.base.model_max_length);
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [batch, row.size[0] * row.size[1], c])?;
    let given = Conditions {
        t: b.constant(HostTensor::zeros(DType::F32, [1, c])),
        t6: b.param("t6", [1, 6, c])?,
        y: b.param("y", [batch, tokens, c])?,
        lengths: b.constant(HostTensor::from_i64([batch], vec![tokens as i64; batch])),
        kv_rows: None,
    };
    let out = part(&mut b, &net, x, &given)?;
    b.output("out", out);
    let mut graph = b.finish();
    passes::run(&mut graph, fuse::RULES, None)?;
    Ok(graph)
}
