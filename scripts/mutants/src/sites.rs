//! Where in the syntax a mutant is, and how it is switched on there.

use crate::edits::Edits;
use crate::mutant::{Genre, Mutant, Place};
use proc_macro2::{LineColumn, Span};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr};

const LOST: &str = "its place is not in the syntax";
const CONSTANT: &str = "it is worked out by the compiler";
const OPAQUE: &str = "the function returns a type without a name, which would be another one";
const BINDS: &str = "it is part of a condition that binds names";

/// Adds the edits that put one mutant behind its switch.
pub fn switch(source: &str, syntax: &syn::File, mutant: &Mutant, edits: &mut Edits) -> Result<(), &'static str> {
    let region = byte(source, &mutant.span.start)..byte(source, &mutant.span.end);
    let mut search = Search::new(source, region.clone());
    search.visit_file(syntax);
    if search.constant {
        return Err(CONSTANT);
    }
    let is_on = format!("crate::mutant_switch::is_on({})", mutant.number);
    let marked = |text: &str| marks(mutant.number).join(text);
    match mutant.genre {
        Genre::FnValue if search.opaque => return Err(OPAQUE),
        Genre::FnValue => {
            let early = format!("if {is_on} {{ return {}; }}\n", marked(&mutant.replacement));
            edits.wrap(region, early, String::new());
        }
        Genre::BinaryOperator | Genre::UnaryOperator => {
            let whole = search.chain.ok_or(LOST)?;
            if search.chain_binds {
                return Err(BINDS);
            }
            let before = &source[whole.start..region.start];
            let after = &source[region.end..whole.end];
            let instead = marked(&format!("{before}{}{after}", mutant.replacement));
            edits.wrap(whole, format!("(if {is_on} {{ {instead} }} else {{ "), " })".to_owned());
        }
        Genre::MatchArm => {
            let Arm { pattern, guard } = search.arm.ok_or(LOST)?;
            match guard {
                Some(guard) => unless(&is_on, &guard, edits),
                None => edits.wrap(pattern, String::new(), format!(" if !{is_on}")),
            }
            // The compiler points there when the other arms do not cover everything.
            let [before, after] = marks(mutant.number);
            edits.wrap(search.matched.ok_or(LOST)?, before, after);
        }
        Genre::MatchArmGuard => {
            let guard = search.arm.and_then(|arm| arm.guard).ok_or(LOST)?;
            if mutant.replacement == "false" {
                unless(&is_on, &guard, edits);
            } else if guard.binds {
                return Err(BINDS);
            } else {
                edits.wrap(guard.region, format!("{is_on} || ("), ")".to_owned());
            }
        }
        Genre::StructField => {
            let field = search.field.ok_or(LOST)?;
            let [path, base, name] = [&field.structure, &field.base, &field.name].map(|part| &source[part.clone()]);
            let instead = marked(&format!("({path} {{ ..{base} }}).{name}"));
            let name = if field.value == field.name {
                format!("{name}: ")
            } else {
                String::new()
            };
            edits.wrap(
                field.value,
                format!("{name}if {is_on} {{ {instead} }} else {{ "),
                " }".to_owned(),
            );
        }
    }
    Ok(())
}

/// Comments around what a mutant added, by which an error of the compiler is known to be of that mutant.
fn marks(number: usize) -> [String; 2] {
    [format!("/*mutant {number}*/"), format!("/*end {number}*/")]
}

fn unless(is_on: &str, guard: &Guard, edits: &mut Edits) {
    // Names that a guard binds are only known outside of brackets.
    let (open, close) = if guard.binds { ("", "") } else { ("(", ")") };
    edits.wrap(guard.region.clone(), format!("!{is_on} && {open}"), close.to_owned());
}

/// The byte where a place is.
fn byte(source: &str, place: &Place) -> usize {
    byte_of(source, place.line, place.column - 1)
}

fn byte_of(source: &str, line: usize, column: usize) -> usize {
    let start = source.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
    let characters = source[start..].char_indices().map(|(place, _)| start + place);
    characters.chain([source.len()]).nth(column).unwrap_or(source.len())
}

struct Guard {
    region: Range<usize>,
    binds: bool,
}

struct Arm {
    pattern: Range<usize>,
    guard: Option<Guard>,
}

struct Field {
    structure: Range<usize>,
    base: Range<usize>,
    name: Range<usize>,
    value: Range<usize>,
}

/// Looks for what is at one region.
struct Search<'a> {
    source: &'a str,
    region: Range<usize>,
    /// The widest expression in which the operator takes part: another one there can bind its neighbours otherwise.
    chain: Option<Range<usize>>,
    chain_binds: bool,
    arm: Option<Arm>,
    /// What the match of that arm is about.
    matched: Option<Range<usize>>,
    field: Option<Field>,
    constant: bool,
    /// Whether the function's type is `impl Trait`.
    opaque: bool,
}

impl<'a> Search<'a> {
    fn new(source: &'a str, region: Range<usize>) -> Self {
        Self {
            source,
            region,
            chain: None,
            chain_binds: false,
            arm: None,
            matched: None,
            field: None,
            constant: false,
            opaque: false,
        }
    }

    fn bytes(&self, span: Span) -> Range<usize> {
        let byte = |place: LineColumn| byte_of(self.source, place.line, place.column);
        byte(span.start())..byte(span.end())
    }

    fn within(&self, node: &impl Spanned) -> bool {
        let node = self.bytes(node.span());
        node.start <= self.region.start && self.region.end <= node.end
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        if self.within(body) {
            self.constant |= signature.constness.is_some();
            self.opaque = has_opaque_type(&signature.output);
        }
    }

    /// Whether a neighbour could bind otherwise when the operator is exchanged: what it becomes is a comparison or
    /// arithmetic where it was, and one of `&&` and `||` where it was one of them.
    fn joins(&self, operator: &BinOp) -> bool {
        let changed = &self.source[self.region.clone()];
        matches!(changed, "&&" | "||") || !matches!(operator, BinOp::And(_) | BinOp::Or(_))
    }
}

fn binds(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

fn has_opaque_type(output: &syn::ReturnType) -> bool {
    struct Opaque(bool);
    impl<'ast> Visit<'ast> for Opaque {
        fn visit_type_impl_trait(&mut self, _: &'ast syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut opaque = Opaque(false);
    opaque.visit_return_type(output);
    opaque.0
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        visit::visit_expr_binary(self, node);
        let inner = [&node.left, &node.right]
            .into_iter()
            .any(|side| matches!(**side, Expr::Binary(_)) && self.chain == Some(self.bytes(side.span())));
        let here = self.bytes(node.op.span()) == self.region;
        if here || (inner && self.joins(&node.op)) {
            self.chain = Some(self.bytes(node.span()));
            self.chain_binds = binds(&node.left) || binds(&node.right);
        }
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        visit::visit_expr_unary(self, node);
        if self.bytes(node.op.span()) == self.region {
            self.chain = Some(self.bytes(node.span()));
        }
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        if node
            .arms
            .iter()
            .any(|arm| self.bytes(arm.span()).start == self.region.start)
        {
            self.matched = Some(self.bytes(node.expr.span()));
        }
        visit::visit_expr_match(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let guard = node.guard.as_ref().map(|(_, guard)| Guard {
            region: self.bytes(guard.span()),
            binds: binds(guard),
        });
        let is_guard = guard.as_ref().is_some_and(|guard| guard.region == self.region);
        if is_guard || self.bytes(node.span()).start == self.region.start {
            let pattern = self.bytes(node.pat.span());
            self.arm = Some(Arm { pattern, guard });
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        let here = node
            .fields
            .iter()
            .find(|field| self.bytes(field.span()).start == self.region.start);
        if let (Some(field), Some(base)) = (here, &node.rest) {
            self.field = Some(Field {
                structure: self.bytes(node.path.span()),
                base: self.bytes(base.span()),
                name: self.bytes(field.member.span()),
                value: self.bytes(field.expr.span()),
            });
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.constant |= self.within(node);
        visit::visit_item_const(self, node);
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.constant |= self.within(node);
        visit::visit_impl_item_const(self, node);
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.constant |= self.within(node);
        visit::visit_item_static(self, node);
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.function(&node.sig, &node.block);
        visit::visit_item_fn(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.function(&node.sig, &node.block);
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_type_array(&mut self, node: &'ast syn::TypeArray) {
        self.constant |= self.within(&node.len);
        visit::visit_type_array(self, node);
    }
}
