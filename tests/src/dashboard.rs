//! What a dashboard of Grafana asks of Prometheus.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A query, and who asks it.
#[derive(Clone, Debug)]
pub struct Query {
    /// The title of a panel, or the name of a variable or an annotation.
    pub of: String,
    pub expression: String,
}

/// Every query of a dashboard, as Grafana would ask it with everything chosen; `window` is what it would fill in for the interval of rates.
///
/// # Errors
/// When something in it is not as Grafana has it.
pub fn queries(dashboard: &Value, window: &str) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for panel in panels(dashboard)? {
        let title = text(panel, "title")?;
        for target in list(panel, "targets").unwrap_or(&Vec::new()) {
            queries.push((title, text(target, "expr")?.to_owned()));
        }
    }
    for annotation in list(&dashboard["annotations"], "list")? {
        // Grafana's own has none.
        if let Ok(expression) = text(annotation, "expr") {
            queries.push((text(annotation, "name")?, expression.to_owned()));
        }
    }
    for variable in
        list(&dashboard["templating"], "list")?.iter().filter(|variable| variable["type"] == "query")
    {
        queries.push((text(variable, "name")?, values_of(text(&variable["query"], "query")?)?));
    }
    let filled = |(of, expression): (&str, String)| {
        let expression = expression.replace("$__rate_interval", window);
        let expression = expression.replace("$instance", ".*").replace("$service", ".*");
        if expression.contains('$') {
            bail!("{of}: a variable that is not known: {expression}");
        }
        Ok(Query { of: of.into(), expression })
    };
    queries.into_iter().map(filled).collect()
}

/// The panels of a dashboard, rows included.
///
/// # Errors
/// When it has none.
pub fn panels(dashboard: &Value) -> Result<&Vec<Value>> {
    list(dashboard, "panels")
}

/// `label_values(METRIC, LABEL)`, which Grafana takes apart itself, as an expression.
fn values_of(query: &str) -> Result<String> {
    let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) =
        arguments.and_then(|both| both.rsplit_once(',')).with_context(|| query.to_owned())?;
    Ok(format!("group by ({}) ({metric})", label.trim()))
}

fn text<'a>(of: &'a Value, key: &str) -> Result<&'a str> {
    of[key].as_str().with_context(|| format!("no {key} in {of}"))
}

fn list<'a>(of: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    of[key].as_array().with_context(|| format!("no {key}"))
}
