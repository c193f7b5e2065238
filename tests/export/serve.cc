// Loads a SavedModel as TF Serving does and runs every signature: no Python anywhere.
//
//   serve EXPORT OUTPUTS PIXELS FILE...
//
// PIXELS is a serialized TensorProto, uint8 (b, h, w, c); FILEs are encoded images. Writes
// OUTPUTS/SIGNATURE.NAME, serialized TensorProtos, and prints every operation of the graph.

#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/public/session.h"

using tensorflow::Tensor;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

Tensor AsFloat(const Tensor& pixels) {
  Tensor result(tensorflow::DT_FLOAT, pixels.shape());
  for (int64_t i = 0; i < pixels.NumElements(); ++i)
    result.flat<float>()(i) = pixels.flat<uint8_t>()(i);
  return result;
}

void Serve(const std::string& path, const std::string& outputs, const Tensor& pixels,
           const Tensor& files) {
  tensorflow::SavedModelBundle bundle;
  Check(tensorflow::LoadSavedModel({}, {}, path, {"serve"}, &bundle));
  for (const auto& [name, signature] : bundle.GetSignatures()) {
    if (signature.inputs().empty()) continue;  // The initializer's.
    std::vector<std::pair<std::string, Tensor>> feeds;
    for (const auto& [key, info] : signature.inputs()) {
      Tensor value = pixels;
      if (info.dtype() == tensorflow::DT_FLOAT) value = AsFloat(pixels);
      if (info.dtype() == tensorflow::DT_STRING) value = files;
      feeds.emplace_back(info.name(), value);
    }
    std::vector<std::string> keys, fetches;
    for (const auto& [key, info] : signature.outputs()) {
      keys.push_back(key);
      fetches.push_back(info.name());
    }
    std::vector<Tensor> results;
    Check(bundle.session->Run(feeds, fetches, {}, &results));
    for (size_t i = 0; i < keys.size(); ++i) {
      tensorflow::TensorProto proto;
      results[i].AsProtoField(&proto);
      std::ofstream(outputs + "/" + name + "." + keys[i], std::ios::binary)
          << proto.SerializeAsString();
    }
  }
  std::set<std::string> operations;
  const auto& graph = bundle.meta_graph_def.graph_def();
  for (const auto& node : graph.node()) operations.insert(node.op());
  for (const auto& function : graph.library().function())
    for (const auto& node : function.node_def()) operations.insert(node.op());
  for (const auto& operation : operations) std::cout << operation << "\n";
}

int main(int count, char** arguments) {
  try {
    if (count < 5) throw std::runtime_error("serve EXPORT OUTPUTS PIXELS FILE...");
    tensorflow::TensorProto proto;
    Tensor pixels;
    if (!proto.ParseFromString(Read(arguments[3])) || !pixels.FromProto(proto))
      throw std::runtime_error("PIXELS is no TensorProto");
    Tensor files(tensorflow::DT_STRING, {count - 4});
    for (int i = 4; i < count; ++i)
      files.flat<tensorflow::tstring>()(i - 4) = Read(arguments[i]);
    Serve(arguments[1], arguments[2], pixels, files);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
