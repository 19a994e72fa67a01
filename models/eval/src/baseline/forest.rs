//! Isolation forest (Liu, Ting, Zhou 2008): 100 trees of 256 windows.

use crate::npy::Array;
use crate::random::Pcg64;

const TREES: usize = 100;
const SAMPLE: usize = 256;
/// ceil(log2(256)).
const HEIGHT_MAX: usize = 8;

enum Node {
    Leaf {
        depth: f64,
    },
    Split {
        column: usize,
        at: f64,
        low: usize,
        high: usize,
    },
}

/// Anomaly scores of the test windows.
pub(super) fn scores(train: &Array, test: &Array) -> Vec<f64> {
    let mut random = Pcg64::numpy_zero();
    let rows: Vec<&[f64]> = train.rows().collect();
    let trees: Vec<Vec<Node>> = (0..TREES)
        .map(|_| {
            let sample: Vec<&[f64]> = (0..SAMPLE)
                .filter_map(|_| rows.get(random.below(rows.len())).copied())
                .collect();
            let mut nodes = Vec::new();
            grow(&mut nodes, sample, 0, &mut random);
            nodes
        })
        .collect();
    let expected = path_length(SAMPLE);
    test.rows()
        .map(|row| {
            let mean = trees.iter().map(|tree| depth(tree, row)).sum::<f64>() / TREES as f64;
            2f64.powf(-mean / expected)
        })
        .collect()
}

/// Adds the tree of a sample; answers with its root.
fn grow(nodes: &mut Vec<Node>, sample: Vec<&[f64]>, height: usize, random: &mut Pcg64) -> usize {
    let place = nodes.len();
    nodes.push(Node::Leaf {
        depth: height as f64 + path_length(sample.len()),
    });
    let columns = sample.first().map_or(0, |row| row.len());
    if height >= HEIGHT_MAX || sample.len() <= 1 || columns == 0 {
        return place;
    }
    let column = random.below(columns);
    let values = sample.iter().filter_map(|row| row.get(column));
    let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    if least >= most {
        return place;
    }
    let at = least + random.uniform() * (most - least);
    let (below, above): (Vec<&[f64]>, Vec<&[f64]>) = sample
        .into_iter()
        .partition(|row| row.get(column).is_some_and(|value| *value < at));
    let low = grow(nodes, below, height + 1, random);
    let high = grow(nodes, above, height + 1, random);
    if let Some(node) = nodes.get_mut(place) {
        *node = Node::Split {
            column,
            at,
            low,
            high,
        };
    }
    place
}

fn depth(tree: &[Node], row: &[f64]) -> f64 {
    let mut place = 0;
    loop {
        match tree.get(place) {
            Some(Node::Split {
                column,
                at,
                low,
                high,
            }) => {
                place = if row.get(*column).is_some_and(|value| value < at) {
                    *low
                } else {
                    *high
                };
            }
            Some(Node::Leaf { depth }) => return *depth,
            None => return 0.0,
        }
    }
}

/// Mean path length of an unsuccessful search in a binary tree of `count` entries.
fn path_length(count: usize) -> f64 {
    match count {
        0 | 1 => 0.0,
        2 => 1.0,
        count => {
            let n = count as f64;
            2.0 * ((n - 1.0).ln() + 0.577_215_664_9) - 2.0 * (n - 1.0) / n
        }
    }
}
