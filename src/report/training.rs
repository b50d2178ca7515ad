//! What a run found out while it fine-tuned: what was compared, what was chosen, and how the epochs went.

use serde::{Deserialize, Serialize};

/// The fine-tuning of the pruned model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Images that chose between the epochs and were not trained on; 0 where the last epoch ships.
    pub held_back: usize,
    /// What they were judged by.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metric: String,
    /// What the repaired model finds on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// What the model that ships finds on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
    /// The epoch that ships, from 1; absent where the repaired model does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<usize>,
    /// The last epochs, as many as trained for int8; with any, held-back images judge in int8.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub int8_epochs: usize,
    /// Why the repaired model ships in place of a tuned one, where training diverged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// The epochs in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Epoch>,
}

/// An epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean loss of its steps, per image.
    pub loss: f64,
    /// What its averaged weights find on the held-back images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<f64>,
    /// Learning rate of its last step.
    pub lr: f64,
}

impl Training {
    /// What ships and why, in a sentence.
    pub fn sentence(&self) -> String {
        let last = match self.int8_epochs {
            0 => return self.choice(),
            1 => "the last epoch".to_owned(),
            epochs => format!("the last {epochs} epochs"),
        };
        format!("{}; {last} trained for int8", self.choice())
    }

    fn choice(&self) -> String {
        if let Some(why) = &self.diverged {
            return format!("the repaired model ships: {why}");
        }
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return "the last epoch ships: no image was held back".into();
        };
        let dtype = if self.int8_epochs > 0 { " in int8" } else { "" };
        let on = format!("on {} held-back images{dtype}: {} {before:.4}", self.held_back, self.metric);
        match self.epoch {
            Some(epoch) => {
                let held = |number: usize| self.epochs.get(number).and_then(|epoch| epoch.held_back);
                let most = (0..self.epochs.len()).filter_map(|number| Some((number + 1, held(number)?)));
                let which = match most.max_by(|a, b| a.1.total_cmp(&b.1)) {
                    Some((best, figure)) if figure > after => {
                        format!("within the noise of the best, epoch {best} ({figure:.4}),")
                    }
                    _ => "the best".to_owned(),
                };
                format!("epoch {epoch} ships, {which} {on} before tuning, {after:.4} after")
            }
            None => format!("the repaired model ships: no epoch was better {on} before tuning"),
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
