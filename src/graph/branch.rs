//! Which branch of an end-to-end head a network is deployed with.

use super::{Dtype, Graph, GraphError, Head, Node, NodeId};
use serde::{Deserialize, Serialize};

/// A branch of an end-to-end head. By default the one that needs no suppression: it is what such networks are made for,
/// its time does not depend on what is in the image, and the last epochs of their training are spent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Branch {
    /// Answers for an object several times; duplicates are suppressed.
    One2Many,
    /// Answers once: the best 300 are taken as they are.
    #[default]
    One2One,
}

impl Branch {
    /// All with the name users type.
    pub const ALL: [(&str, Self); 2] = [("one2many", Self::One2Many), ("one2one", Self::One2One)];

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, branch)| *branch)
    }

    /// Its name in profiles, reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::One2Many => "one2many",
            Self::One2One => "one2one",
        }
    }
}

impl Graph {
    /// The graph with one branch of its end-to-end head; the layers that only the other one needs are removed.
    ///
    /// # Errors
    /// If the graph has no such branch.
    pub fn with_branch(&self, branch: Branch) -> Result<Self, GraphError> {
        let (one2one, one2many) = match &self.head {
            Head::EndToEnd { one2many, .. } => (true, *one2many),
            Head::Classify { .. } => (false, false),
            _ => (false, true),
        };
        let wanted = if branch == Branch::One2One { one2one } else { one2many };
        if !wanted {
            let problem = format!("it has no branch `{}`", branch.name());
            return Err(GraphError { node: "head".into(), problem });
        }
        if one2one != one2many {
            return Ok(self.clone());
        }
        let (many, one) = self.outputs.split_at(self.outputs.len() / 2);
        let inner = Box::new(self.head.branch().clone());
        let (outputs, head) = match branch {
            Branch::One2Many => (many, *inner),
            Branch::One2One => (one, Head::EndToEnd { one2many: false, branch: inner }),
        };
        let graph = self.reduced(outputs, head);
        graph.check().map(|()| graph)
    }

    /// The graph as it is deployed: with the branch that was asked for; without one, of two branches the default one.
    ///
    /// # Errors
    /// If the graph has no such branch.
    pub fn deployed(&self, asked: Option<Branch>) -> Result<Self, GraphError> {
        match (asked, &self.head) {
            (None, Head::EndToEnd { one2many: true, .. }) => self.with_branch(Branch::default()),
            (None, _) => Ok(self.clone()),
            (Some(branch), _) => self.with_branch(branch),
        }
    }

    /// The branch that answers.
    pub fn branch(&self) -> Branch {
        if self.head.is_one2one() { Branch::One2One } else { Branch::One2Many }
    }

    /// By node whether only the one-to-one branch needs it; none where there are not two branches.
    pub fn one2one_only(&self) -> Vec<bool> {
        if !matches!(self.head, Head::EndToEnd { one2many: true, .. }) {
            return vec![false; self.nodes.len()];
        }
        let (many, one) = self.outputs.split_at(self.outputs.len() / 2);
        self.needed(many).into_iter().zip(self.needed(one)).map(|(many, one)| one && !many).collect()
    }

    /// By node whether some outputs need it; the image always is.
    fn needed(&self, outputs: &[NodeId]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        // The first layer is always the image.
        needed[0] = true;
        outputs.iter().for_each(|id| needed[id.index()] = true);
        for id in self.ids().rev().filter(|id| id.index() > 0) {
            if needed[id.index()] {
                self.node(id).inputs.iter().for_each(|input| needed[input.index()] = true);
            }
        }
        needed
    }

    /// The nodes that some outputs need, numbered anew.
    fn reduced(&self, outputs: &[NodeId], head: Head) -> Self {
        let needed = self.needed(outputs);
        let mut number = vec![NodeId(0); self.nodes.len()];
        let mut nodes: Vec<Node> = Vec::new();
        for id in self.ids().filter(|id| needed[id.index()]) {
            number[id.index()] = NodeId(nodes.len() as u32);
            let inputs = self.node(id).inputs.iter().map(|input| number[input.index()]).collect();
            nodes.push(Node { inputs, ..self.node(id).clone() });
        }
        let outputs = outputs.iter().map(|id| number[id.index()]).collect();
        let stays = |(name, _): &(&String, &Dtype)| nodes.iter().any(|node| node.name == **name);
        let exceptions = self.exceptions.iter().filter(stays).map(|(name, dtype)| (name.clone(), *dtype)).collect();
        Self { nodes, outputs, head, dtype: self.dtype, exceptions }
    }
}
