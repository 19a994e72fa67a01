//! Functions of a range, by name.

use super::{WindowFunction, over_time, rate, trend};
use crate::error::QueryError;
use crate::eval::Window;

type Outcome = Result<Option<f64>, QueryError>;

pub(crate) fn find(name: &str) -> Option<WindowFunction> {
    let compute: fn(&Window<'_>) -> Outcome = match name {
        "rate" => |window| Ok(rate::rate(window, rate::Kind::Rate)),
        "increase" => |window| Ok(rate::rate(window, rate::Kind::Increase)),
        "delta" => |window| Ok(rate::rate(window, rate::Kind::Delta)),
        "irate" => |window| Ok(rate::instant(window, true)),
        "idelta" => |window| Ok(rate::instant(window, false)),
        "resets" => |window| Ok(rate::resets(window)),
        "changes" => |window| Ok(rate::changes(window)),
        "deriv" => |window| Ok(trend::deriv(window)),
        "predict_linear" => |window| Ok(trend::predict(window)),
        "double_exponential_smoothing" | "holt_winters" => trend::smooth,
        "quantile_over_time" => |window| Ok(over_time::quantile(window)),
        other => {
            return over_time::find(other).map(|compute| WindowFunction {
                compute,
                keeps_name: matches!(other, "first_over_time" | "last_over_time"),
            });
        }
    };
    Some(WindowFunction {
        compute,
        keeps_name: false,
    })
}
