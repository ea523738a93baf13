// Printed from `pow` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}

// By the bits: a compiler may take x != x to be false.
fn sl_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn sl_log(x0: f32) -> f32 {
    let v2 = x0 == 0.0f;
    let v4 = bitcast<f32>(sl_word(0x7f800000u));
    let v5 = -v4;
    let v6 = x0 < 0.0f;
    let v8 = bitcast<f32>(sl_word(0x7fc00000u));
    let v9 = x0 < v4;
    let v11 = x0 < 1.1754944e-38f;
    let v13 = x0 * 8388608.0f;
    let v14 = select(x0, v13, v11);
    let v15 = bitcast<u32>(v14);
    let v17 = v15 + 0x4afb0du;
    let v18 = v17 >> 23u;
    let v20 = v18 | 0x4b000000u;
    let v21 = bitcast<f32>(v20);
    let v23 = v21 - 8388735.0f;
    let v25 = select(0.0f, 23.0f, v11);
    let v26 = v23 - v25;
    let v29 = v17 & 0x7fffffu;
    let v31 = v29 + 0x3f3504f3u;
    let v32 = bitcast<f32>(v31);
    let v34 = v32 - 1.0f;
    let v36 = v34 * v34;
    let v39 = fma(v34, -0.07638335f, 0.12764828f);
    let v41 = fma(v34, v39, -0.13160181f);
    let v43 = fma(v34, v41, 0.14201269f);
    let v45 = fma(v34, v43, -0.16623315f);
    let v47 = fma(v34, v45, 0.2000125f);
    let v49 = fma(v34, v47, -0.25000823f);
    let v51 = fma(v34, v49, 0.3333333f);
    let v53 = fma(v34, v51, -0.5f);
    let v54 = v36 * v53;
    let v55 = fma(v26, -0.00021219444f, v54);
    let v56 = v34 + v55;
    let v57 = fma(v26, 0.6933594f, v56);
    let v58 = select(x0, v57, v9);
    let v59 = select(v58, v8, v6);
    let v60 = select(v59, v5, v2);
    return v60;
}

fn sl_pow(x0: f32, x1: f32) -> f32 {
    let v2 = x1 == 0.0f;
    let v5 = x0 == 1.0f;
    let v6 = v2 | v5;
    let v7 = abs(x0);
    let v9 = bitcast<f32>(sl_word(0x7f800000u));
    let v10 = v7 < v9;
    let v11 = x0 < 0.0f;
    let v12 = v10 & v11;
    let v13 = floor(x1);
    let v14 = x1 == v13;
    let v15 = !v14;
    let v16 = v12 & v15;
    let v17 = !sl_is_nan(x0);
    let v18 = !v17;
    let v19 = v16 | v18;
    let v21 = bitcast<f32>(sl_word(0x7fc00000u));
    let v22 = bitcast<u32>(x0);
    let v24 = x1 * 0.5f;
    let v25 = floor(v24);
    let v26 = v24 == v25;
    let v27 = !v26;
    let v28 = v14 & v27;
    let v31 = select(0x0u, 0x80000000u, v28);
    let v32 = v22 & v31;
    let v35 = 1e30f < x1;
    let v36 = select(x1, 1e30f, v35);
    let v38 = v36 < -1e30f;
    let v39 = select(v36, -1e30f, v38);
    let v40 = 0.0f == v7;
    let v41 = -v9;
    let v42 = v7 == v9;
    let v44 = v7 < 1.1754944e-38f;
    let v46 = v7 * 8388608.0f;
    let v47 = select(v7, v46, v44);
    let v48 = bitcast<u32>(v47);
    let v50 = v48 + 0x4afb0du;
    let v51 = v50 >> 23u;
    let v53 = v51 | 0x4b000000u;
    let v54 = bitcast<f32>(v53);
    let v56 = v54 - 8388735.0f;
    let v58 = select(0.0f, 23.0f, v44);
    let v59 = v56 - v58;
    let v61 = v50 & 0x7fffffu;
    let v63 = v61 + 0x3f3504f3u;
    let v64 = bitcast<f32>(v63);
    let v65 = v64 - 1.0f;
    let v67 = v65 + 2.0f;
    let v68 = 1.0f / v67;
    let v69 = v65 * v68;
    let v71 = v69 * 2.88539f;
    let v72 = v69 * v69;
    let v75 = fma(v72, 0.11713582f, 0.1427339f);
    let v77 = fma(v72, v75, 0.20000078f);
    let v78 = v72 * v77;
    let v80 = v78 + 0.33333334f;
    let v81 = v72 * v80;
    let v82 = v81 * v71;
    let v83 = v71 + v82;
    let v84 = v59 + v83;
    let v85 = v83 - v71;
    let v86 = v82 - v85;
    let v88 = v67 - 2.0f;
    let v89 = v65 - v88;
    let v90 = -v69;
    let v91 = fma(v67, v90, v65);
    let v92 = fma(v89, v90, v91);
    let v93 = v68 * v92;
    let v94 = -v71;
    let v95 = fma(v69, 2.88539f, v94);
    let v96 = fma(v93, 2.88539f, v95);
    let v97 = fma(v69, 3.8519257e-8f, v96);
    let v98 = v80 - 0.33333334f;
    let v99 = v78 - v98;
    let v101 = v99 + -9.934108e-9f;
    let v102 = -v72;
    let v103 = fma(v69, v69, v102);
    let v104 = fma(v69, v93, v103);
    let v105 = fma(v69, v93, v104);
    let v106 = -v81;
    let v107 = fma(v72, v80, v106);
    let v108 = fma(v105, v80, v107);
    let v109 = fma(v72, v101, v108);
    let v110 = -v82;
    let v111 = fma(v81, v71, v110);
    let v112 = fma(v81, v97, v111);
    let v113 = fma(v109, v71, v112);
    let v114 = v97 + v113;
    let v115 = v86 + v114;
    let v116 = v84 - v59;
    let v117 = v83 - v116;
    let v118 = v115 + v117;
    let v119 = v84 + v118;
    let v120 = select(v119, v9, v42);
    let v121 = select(v120, v41, v40);
    let v122 = v39 * v121;
    let v123 = 200.0f < v122;
    let v124 = select(v122, 200.0f, v123);
    let v126 = v124 < -200.0f;
    let v127 = select(v124, -200.0f, v126);
    let v128 = round(v127);
    let v130 = v128 + 254.0f;
    let v131 = u32(v130);
    let v132 = v131 >> 1u;
    let v133 = v131 - v132;
    let v134 = v133 << 23u;
    let v135 = bitcast<f32>(v134);
    let v136 = v127 - v128;
    let v137 = abs(v127);
    let v138 = v137 < 200.0f;
    let v139 = v119 - v84;
    let v140 = v118 - v139;
    let v141 = -v122;
    let v142 = fma(v39, v121, v141);
    let v143 = fma(v39, v140, v142);
    let v144 = select(0.0f, v143, v138);
    let v145 = v136 + v144;
    let v148 = fma(v145, 0.000153275f, 0.0013391242f);
    let v150 = fma(v145, v148, 0.009618505f);
    let v152 = fma(v145, v150, 0.055503592f);
    let v154 = fma(v145, v152, 0.24022648f);
    let v156 = fma(v145, v154, 0.6931472f);
    let v157 = fma(v145, v156, 1.0f);
    let v158 = v132 << 23u;
    let v159 = bitcast<f32>(v158);
    let v160 = v157 * v159;
    let v161 = v135 * v160;
    let v162 = bitcast<u32>(v161);
    let v163 = v32 | v162;
    let v164 = bitcast<f32>(v163);
    let v165 = select(v164, v21, v19);
    let v166 = select(v165, 1.0f, v6);
    return v166;
}

fn def_pow(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = sl_pow(x0, x1);
    return v2;
}

fn def_pow_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x1 == 0.0f;
    let v5 = x1 - 1.0f;
    let v6 = sl_pow(x0, v5);
    let v7 = x1 * v6;
    let v8 = select(v7, 0.0f, v2);
    return v8;
}

fn def_pow_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 == 0.0f;
    let v4 = 0.0f <= x1;
    let v5 = v2 & v4;
    let v6 = sl_pow(x0, x1);
    let v7 = sl_log(x0);
    let v8 = v6 * v7;
    let v9 = select(v8, 0.0f, v5);
    return v9;
}
