pub mod bindings { wit_bindgen::generate!({ path: "../wit", world: "component", pub_export_macro: true }); }
