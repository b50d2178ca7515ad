//! Rust source as a flat list of tokens with their lines: comments and the inside of strings are gone, so that rules see
//! code only.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::fs;
use std::path::{Path, PathBuf};

/// A token and the line it stands on, counted from one.
#[derive(Clone, Debug)]
pub struct Token {
    /// An identifier, one character of punctuation, a bracket, or `"` for any literal.
    pub text: String,
    /// Its line.
    pub line: usize,
}

/// A source file of this repository.
pub struct Source {
    /// Its path from the repository's root.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
    /// Its tokens, those of tests too.
    pub tokens: Vec<Token>,
}

/// All Rust files below some folders, in the order of their paths.
pub fn files_under(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let tokens = tokens(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                files.push(Source { path: path.strip_prefix(root).unwrap().into(), text, tokens });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The tokens of a text.
pub fn tokens(text: &str) -> Result<Vec<Token>, proc_macro2::LexError> {
    let mut out = Vec::new();
    flatten(text.parse()?, &mut out);
    Ok(out)
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.into(), line });
                flatten(group.stream(), out);
                out.push(Token { text: close.into(), line: group.span_close().end().line });
            }
            TokenTree::Ident(ident) => out.push(Token { text: ident.to_string(), line }),
            TokenTree::Punct(punct) => out.push(Token { text: punct.as_char().into(), line }),
            TokenTree::Literal(_) => out.push(Token { text: "\"".into(), line }),
        }
    }
}

/// The place behind the bracket that closes the one at `at`.
pub fn behind(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    tokens.len()
}

/// Whether the tokens from `at` on are these.
pub fn follows(tokens: &[Token], at: usize, expected: &[&str]) -> bool {
    expected.iter().enumerate().all(|(i, text)| tokens.get(at + i).is_some_and(|token| token.text == *text))
}

/// Whether a token is a name.
pub fn is_name(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The tokens without what is compiled for tests only.
pub fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !follows(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // The item goes with its attribute: up to its block or its semicolon.
        at += 7;
        while at < tokens.len() && !["{", ";"].contains(&tokens[at].text.as_str()) {
            at = if ["(", "["].contains(&tokens[at].text.as_str()) { behind(tokens, at) } else { at + 1 };
        }
        at = if follows(tokens, at, &["{"]) { behind(tokens, at) } else { at + 1 };
    }
    out
}
