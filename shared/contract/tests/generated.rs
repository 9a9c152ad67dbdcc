//! The committed code of `src/grpc/generated` is what the `.proto` files generate.
//!
//! There is neither a protoc nor a build script: with `REGENERATE=1` in the environment this test writes what it would
//! otherwise compare.

use std::path::{Path, PathBuf};

use prost::Message;
use protox::prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto,
};

const PACKAGE: &str = "omnirelay.control.v1";
const FILES: &[&str] = &["omnirelay/control/v1/control.proto"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/grpc/generated")
}

#[test]
fn generated_code_is_current() {
    let mut compiler = protox::Compiler::new([Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")]).expect("protos");
    compiler.include_imports(true).include_source_info(true).open_files(FILES).expect("valid protos");
    let with_comments = compiler.file_descriptor_set();
    let mut bare = with_comments.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let out = std::env::temp_dir().join(format!("omnirelay-generated-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a folder");
    generate(with_comments, &out);
    let name = format!("{PACKAGE}.rs");
    let code = std::fs::read(out.join(&name)).expect("generated code");
    std::fs::remove_dir_all(&out).expect("removed");
    let wanted = [(name, code), ("descriptors.bin".to_owned(), bare.encode_to_vec())];
    for (name, bytes) in wanted {
        let path = folder().join(&name);
        if std::env::var_os("REGENERATE").is_some() {
            std::fs::write(&path, bytes).expect("written");
        } else {
            assert!(
                std::fs::read(&path).is_ok_and(|there| there == bytes),
                "{name} is not what the protos say: REGENERATE=1 cargo test -p omnirelay-contract --test generated"
            );
        }
    }
}

fn generate(descriptors: FileDescriptorSet, out: &Path) {
    let mut builder = tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .btree_map(".")
        .extern_path(".google.protobuf.Value", "crate::grpc::json::Value")
        .out_dir(out);
    for file in descriptors.file.iter().filter(|file| file.package() == PACKAGE) {
        for message in file.message_type.iter().filter(|message| !message.field.iter().any(in_oneof)) {
            let path = format!(".{PACKAGE}.{}", message.name());
            builder = builder
                .type_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
                .type_attribute(&path, "#[serde(rename_all = \"camelCase\")]");
            for field in &message.field {
                builder = builder.field_attribute(format!("{path}.{}", field.name()), attribute(message, field));
            }
        }
    }
    builder.compile_fds(descriptors).expect("code");
}

/// How a field is left out of JSON, and what stands for it when it is.
fn attribute(message: &DescriptorProto, field: &FieldDescriptorProto) -> &'static str {
    use field_descriptor_proto::{Label, Type};
    let map = |field: &FieldDescriptorProto| {
        let entry = field.type_name().rsplit('.').next().unwrap_or_default();
        message.nested_type.iter().any(|nested| nested.name() == entry)
    };
    let single = field.label() != Label::Repeated;
    if field.name() == "members" && map(field) {
        "#[serde(flatten)]"
    } else if single && (field.proto3_optional() || field.r#type() == Type::Message) {
        "#[serde(default, skip_serializing_if = \"Option::is_none\")]"
    } else {
        "#[serde(default, deserialize_with = \"crate::grpc::json::or_default\", skip_serializing_if = \"crate::grpc::json::is_default\")]"
    }
}

fn in_oneof(field: &FieldDescriptorProto) -> bool {
    field.oneof_index.is_some() && !field.proto3_optional()
}
