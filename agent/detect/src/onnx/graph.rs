//! The host-anomaly graph as a function from parameters and one vector to scores.

use std::borrow::Cow;

use fleetmend_models::Bundle;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::{OnnxError, Runtime};

/// What the graph reads; slices are row by row. `d` metrics, `m` hidden units, `k` directions, `w` window steps.
#[derive(Debug, Clone, Copy)]
pub struct GraphInputs<'a> {
    /// Values, `d`; whatever stands where the mask is 0 is not used but must be finite.
    pub x: &'a [f32],
    /// 1 where a value is present, else 0, `d`.
    pub mask: &'a [f32],
    /// Standardised vectors before this one, newest first, `(w - 1) * d`.
    pub history: &'a [f32],
    /// Time of day, `s`.
    pub season: &'a [f32],
    /// Mean, `d`.
    pub center: &'a [f32],
    /// One over the standard deviation, `d`.
    pub inv_scale: &'a [f32],
    /// Daily baseline, `(s + 1) * d`.
    pub baseline: &'a [f32],
    /// Fixed random weights, `q * m`.
    pub hidden_weight: &'a [f32],
    /// Fixed random biases, `m`.
    pub hidden_bias: &'a [f32],
    /// Ridge forecast, `(q + m + 1) * d`.
    pub forecast: &'a [f32],
    /// Mean of the window, `w * d`.
    pub window_center: &'a [f32],
    /// Principal directions, `w * d * k`.
    pub basis: &'a [f32],
    /// One over the RMS of the level residual, `d`.
    pub level_inv: &'a [f32],
    /// One over the RMS of the subspace residual, `d`.
    pub subspace_inv: &'a [f32],
    /// One over the RMS of the temporal residual, `d`.
    pub temporal_inv: &'a [f32],
}

/// What the graph answers, each `d` long but `features` (`q + m + 1`) and `scores`.
#[derive(Debug, Clone, Default)]
pub struct GraphOutputs {
    /// Standardised vector, with forecasts where values are missing.
    pub z: Vec<f32>,
    /// Forecast in the units of `x`.
    pub expected: Vec<f32>,
    /// Features of the forecast.
    pub features: Vec<f32>,
    /// Level residual in standard deviations.
    pub level_raw: Vec<f32>,
    /// Subspace residual in standard deviations.
    pub subspace_raw: Vec<f32>,
    /// Temporal residual in standard deviations.
    pub temporal_raw: Vec<f32>,
    /// Level residual over its own RMS.
    pub level: Vec<f32>,
    /// Subspace residual over its own RMS.
    pub subspace: Vec<f32>,
    /// Temporal residual over its own RMS.
    pub temporal: Vec<f32>,
    /// Scores: temporal, temporal broad, level, subspace.
    pub scores: [f32; 4],
}

/// A loaded host-anomaly graph.
pub struct HostGraph {
    session: Session,
    model: String,
}

impl HostGraph {
    /// Loads the graph of a verified bundle.
    pub fn new(runtime: &Runtime, bundle: &Bundle) -> Result<Self, OnnxError> {
        let model = format!("{} {}", bundle.manifest().name, bundle.manifest().version);
        let failed = |reason: String| OnnxError::Graph {
            model: model.clone(),
            reason,
        };
        let session = Session::builder(runtime.environment())
            .map_err(|error| failed(error.to_string()))?
            .with_intra_threads(1)
            .map_err(|error| failed(error.to_string()))?
            .with_inter_threads(1)
            .map_err(|error| failed(error.to_string()))?
            .with_optimization_level(GraphOptimizationLevel::Level3)
            .map_err(|error| failed(error.to_string()))?
            .commit_from_memory(bundle.graph())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { session, model })
    }

    /// Runs the graph once.
    pub fn run(&mut self, inputs: &GraphInputs<'_>) -> Result<GraphOutputs, OnnxError> {
        run(&mut self.session, inputs).map_err(|error| OnnxError::Run {
            model: self.model.clone(),
            reason: error.to_string(),
        })
    }
}

fn run(session: &mut Session, inputs: &GraphInputs<'_>) -> ort::Result<GraphOutputs> {
    let d = inputs.x.len().max(1);
    let units = inputs.hidden_bias.len().max(1);
    let window = inputs.window_center.len();
    let tensors: [(&'static str, Vec<usize>, &[f32]); 15] = [
        ("x", vec![d], inputs.x),
        ("mask", vec![d], inputs.mask),
        ("history", vec![inputs.history.len() / d, d], inputs.history),
        ("season", vec![inputs.season.len()], inputs.season),
        ("center", vec![d], inputs.center),
        ("inv_scale", vec![d], inputs.inv_scale),
        ("baseline", vec![inputs.baseline.len() / d, d], inputs.baseline),
        (
            "hidden_weight",
            vec![inputs.hidden_weight.len() / units, units],
            inputs.hidden_weight,
        ),
        ("hidden_bias", vec![units], inputs.hidden_bias),
        ("forecast", vec![inputs.forecast.len() / d, d], inputs.forecast),
        ("window_center", vec![window], inputs.window_center),
        (
            "basis",
            vec![window, inputs.basis.len() / window.max(1)],
            inputs.basis,
        ),
        ("level_inv", vec![d], inputs.level_inv),
        ("subspace_inv", vec![d], inputs.subspace_inv),
        ("temporal_inv", vec![d], inputs.temporal_inv),
    ];
    let mut values: Vec<(Cow<'static, str>, SessionInputValue<'_>)> = Vec::with_capacity(tensors.len());
    for (name, shape, data) in tensors {
        values.push((
            Cow::Borrowed(name),
            TensorRef::from_array_view((shape, data))?.into(),
        ));
    }
    let answers = session.run(values)?;
    let read = |name: &str| -> ort::Result<Vec<f32>> {
        let value = answers
            .get(name)
            .ok_or_else(|| ort::Error::new(format!("no output {name}")))?;
        Ok(value.try_extract_tensor::<f32>()?.1.to_vec())
    };
    let scores = read("scores")?;
    Ok(GraphOutputs {
        z: read("z")?,
        expected: read("expected")?,
        features: read("features")?,
        level_raw: read("level_raw")?,
        subspace_raw: read("subspace_raw")?,
        temporal_raw: read("temporal_raw")?,
        level: read("level")?,
        subspace: read("subspace")?,
        temporal: read("temporal")?,
        scores: scores
            .try_into()
            .map_err(|_| ort::Error::new("the graph does not answer four scores"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::tests::test_runtime;

    #[test]
    fn graph_answers_the_golden_cases() {
        let bundle = Bundle::shipped().unwrap();
        let mut graph = HostGraph::new(&test_runtime(), &bundle).unwrap();
        for case in &bundle.golden().cases {
            let input = |name: &str| case.inputs[name].data.as_slice();
            let found = graph
                .run(&GraphInputs {
                    x: input("x"),
                    mask: input("mask"),
                    history: input("history"),
                    season: input("season"),
                    center: input("center"),
                    inv_scale: input("inv_scale"),
                    baseline: input("baseline"),
                    hidden_weight: input("hidden_weight"),
                    hidden_bias: input("hidden_bias"),
                    forecast: input("forecast"),
                    window_center: input("window_center"),
                    basis: input("basis"),
                    level_inv: input("level_inv"),
                    subspace_inv: input("subspace_inv"),
                    temporal_inv: input("temporal_inv"),
                })
                .unwrap();
            let tolerance = bundle.golden().tolerance;
            for (name, values) in [
                ("z", found.z.as_slice()),
                ("expected", &found.expected),
                ("features", &found.features),
                ("level_raw", &found.level_raw),
                ("subspace_raw", &found.subspace_raw),
                ("temporal_raw", &found.temporal_raw),
                ("level", &found.level),
                ("subspace", &found.subspace),
                ("temporal", &found.temporal),
                ("scores", &found.scores),
            ] {
                let wanted = &case.outputs[name].data;
                assert_eq!(wanted.len(), values.len(), "{}: {name}", case.name);
                for (wanted, value) in wanted.iter().zip(values) {
                    let slack = tolerance * f64::from(wanted.abs()).max(1.0);
                    assert!(
                        f64::from((wanted - value).abs()) <= slack,
                        "{}: {name} {value} != {wanted}",
                        case.name
                    );
                }
            }
        }
    }

    #[test]
    fn graph_refuses_inputs_of_another_shape_without_panicking() {
        let bundle = Bundle::shipped().unwrap();
        let mut graph = HostGraph::new(&test_runtime(), &bundle).unwrap();
        let (two, three) = ([0.0f32; 2], [0.0f32; 3]);
        let inputs = GraphInputs {
            x: &two,
            mask: &three,
            history: &two,
            season: &two,
            center: &two,
            inv_scale: &two,
            baseline: &two,
            hidden_weight: &two,
            hidden_bias: &two,
            forecast: &two,
            window_center: &two,
            basis: &two,
            level_inv: &two,
            subspace_inv: &two,
            temporal_inv: &two,
        };
        assert!(matches!(graph.run(&inputs), Err(OnnxError::Run { .. })));
    }
}
